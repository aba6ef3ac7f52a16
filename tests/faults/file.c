/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Driver "file": each system call of each operation fails in each way. */
#include "disk.h"

#define READ_ONLY "'read-only':true"
#define DIRECT "'cache':{'direct':true}"

static void start(const char *options)
{
    disk_make(LENGTH);
    disk_use_file(options);
    disk_open();
}

static void all_requests(void)
{
    disk_status(BDRV_WANT_PRECISE);
    disk_read(0, 8 * KIB);
    disk_write(8 * KIB, 16 * KIB, 10, 0);
    disk_write(5000, 6000, 11, 0);           /* unaligned, over data */
    disk_write(200 * KIB + 100, 300, 12, 0); /* over a hole */
    disk_zero(16 * KIB, 16 * KIB, 0);        /* data */
    disk_write(20 * KIB, 8 * KIB, 13, 0);    /* over zeroes */
    disk_zero(72 * KIB, 16 * KIB, BDRV_REQ_MAY_UNMAP);
    disk_zero(90 * KIB + 10, 5000, BDRV_REQ_MAY_UNMAP);
    disk_zero(100 * KIB, 4 * KIB, BDRV_REQ_NO_FALLBACK);
    disk_discard(104 * KIB, 8 * KIB);
    disk_read(0, LENGTH); /* around what is known to be zero */
    disk_flush();
    disk_write(0, 4 * KIB, 14, BDRV_REQ_FUA);
    disk_zero(4 * KIB, 4 * KIB, BDRV_REQ_FUA);
    disk_status(BDRV_WANT_PRECISE);
    disk_flush();
}

static void requests(void)
{
    start("'discard':'unmap'");
    all_requests();
    disk_finish();
}

static void requests_seek(void)
{
    start("'discard':'unmap','status-probe':'seek'");
    all_requests();
    disk_finish();
}

static void requests_direct(void)
{
    start("'discard':'unmap'," DIRECT);
    all_requests();
    disk_finish();
}

static void requests_learn(void)
{
    start("'discard':'unmap','status-cache-learn-reads':true,"
          "'detect-zeroes':'unmap'");
    disk_read(0, LENGTH);
    disk_write(64 * KIB, 16 * KIB, 0, 0); /* is found to be zeroes */
    disk_read(0, LENGTH);
    all_requests();
    disk_finish();
}

static void requests_without_cache(void)
{
    start("'status-cache':'off'");
    disk_status(BDRV_WANT_PRECISE);
    disk_write(8 * KIB, 16 * KIB, 10, 0);
    disk_zero(16 * KIB, 16 * KIB, 0);
    disk_status(BDRV_WANT_PRECISE);
    disk_finish();
}

/* Reads in a row that leave zeroes out make the kernel read ahead. */
static void reads_ahead(void)
{
    int64_t at;

    start("");
    disk_zero(32 * KIB, 96 * KIB, 0);
    disk_write(128 * KIB, 16 * KIB, 10, 0);
    disk_zero(144 * KIB, 64 * KIB, 0);
    disk_status(BDRV_WANT_PRECISE);
    for (at = 0; at < LENGTH; at += 64 * KIB) {
        disk_read(at, 64 * KIB);
    }
    disk_finish();
}

/* The pages go after a status question, and others come. */
static void many_mappings(void)
{
    int64_t at;

    start("'discard':'unmap'");
    for (at = 0; at < LENGTH; at += 16 * KIB) {
        disk_discard(at, 4 * KIB);
        disk_write(at + 8 * KIB, 4 * KIB, 10, 0);
    }
    disk_zero(160 * KIB, 32 * KIB, 0); /* allocated, unwritten */
    disk_open_anew();
    disk_status(BDRV_WANT_PRECISE);
    disk_write(170 * KIB, 100, 11, 0);
    disk_status(BDRV_WANT_ZERO);
    disk_finish();
}

static void growing(void)
{
    start("");
    disk_write(LENGTH - 2 * KIB, 4 * KIB, 10, 0);
    disk_write(LENGTH + 20 * KIB + 100, 3000, 11, 0);
    disk_zero(LENGTH + 30 * KIB, 8 * KIB, BDRV_REQ_MAY_UNMAP);
    disk_zero(LENGTH + 40 * KIB + 5, 8 * KIB, 0);
    disk_status(BDRV_WANT_PRECISE);
    disk_finish();
}

static void growing_direct(void)
{
    start(DIRECT);
    disk_write(LENGTH - 2 * KIB, 4 * KIB, 10, 0);
    disk_write(LENGTH + 20 * KIB + 100, 3000, 11, BDRV_REQ_FUA);
    disk_read(LENGTH + 20 * KIB, 3100);
    disk_zero(LENGTH + 30 * KIB, 8 * KIB, 0);
    disk_status(BDRV_WANT_PRECISE);
    disk_finish();
}

static void resizing(void)
{
    start("");
    disk_status(BDRV_WANT_PRECISE);
    disk_resize(LENGTH + 64 * KIB);
    disk_write(LENGTH + 32 * KIB, 4 * KIB, 10, 0);
    disk_resize(100 * KIB + 1000);
    disk_status(BDRV_WANT_PRECISE);
    disk_resize(LENGTH);
    disk_status(BDRV_WANT_PRECISE);
    disk_write(120 * KIB, 4 * KIB, 11, 0);
    disk_finish();
}

/* Options change, and so do users */
static void reopening(void)
{
    g_autofree char *common = NULL;
    g_autofree char *direct = NULL;
    g_autofree char *seek = NULL;
    g_autofree char *off = NULL;

    start("");
    common = g_strdup_printf("{'driver':'file','node-name':'d','filename':'%s'",
                             disk.path);
    direct = g_strconcat(common, "," DIRECT "}", NULL);
    seek = g_strconcat(common, ",'status-probe':'seek'}", NULL);
    off = g_strconcat(common, ",'status-cache':'off'}", NULL);
    disk_write(0, 4 * KIB, 10, 0);
    disk_reopen(direct);
    disk_write(4 * KIB, 4 * KIB, 11, 0);
    disk_reopen(seek);
    disk_status(BDRV_WANT_PRECISE);
    disk_share(BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL);
    disk_reopen(off);
    disk_share(BLK_PERM_WRITE | BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL);
    disk_finish();
}

/* Opened for reading, and again for who is going to write */
static void auto_read_only(void)
{
    disk_make(LENGTH);
    disk_use_file("'auto-read-only':true");
    disk.read_only = true;
    disk_open();
    disk_status(BDRV_WANT_PRECISE);
    disk_share(BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE, BLK_PERM_ALL);
    disk_share(BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
               BLK_PERM_CONSISTENT_READ);
    disk_status(BDRV_WANT_PRECISE);
    disk_finish();
}

static void read_only(void)
{
    disk_make(LENGTH);
    disk_use_file(READ_ONLY);
    disk.read_only = true;
    disk_open();
    disk_status(BDRV_WANT_PRECISE);
    disk_read(0, LENGTH);
    disk_flush();
    disk_finish();
}

/* A second node of the file: neither remembers zeroes meanwhile. */
static void two_nodes(void)
{
    g_autofree char *other = NULL;
    BlockDriverState *bs;
    GError *err;

    start("");
    other = g_strdup_printf("{'driver':'file','node-name':'other',"
                            "'filename':'%s'," READ_ONLY "}",
                            disk.path);
    disk_status(BDRV_WANT_PRECISE);
    do {
        err = NULL;
        op_begin("open another node");
        bs = node_new(other, &err);
    } while (!op_end_bool(bs != NULL, err));
    disk_write(140 * KIB, 4 * KIB, 10, 0);
    disk_status(BDRV_WANT_PRECISE);
    op_begin("close another node");
    REQUIRE(node_del("other", NULL));
    op_stop();
    disk_status(BDRV_WANT_PRECISE);
    disk_finish();
}

static void through_raw(void)
{
    g_autofree char *options = NULL;

    disk_make(LENGTH);
    options = g_strdup_printf(
        "{'driver':'raw','node-name':'d','discard':'unmap','file':"
        "{'driver':'file','filename':'%s','discard':'unmap'}}",
        disk.path);
    disk_use(options, true);
    disk_open();
    all_requests();
    disk_resize(LENGTH + 8 * KIB);
    disk_finish();
}

static const Scenario scenarios[] = {
    { "requests", requests },
    { "requests-seek", requests_seek },
    { "requests-direct", requests_direct },
    { "requests-learn", requests_learn },
    { "requests-without-cache", requests_without_cache },
    { "reads-ahead", reads_ahead },
    { "many-mappings", many_mappings },
    { "growing", growing },
    { "growing-direct", growing_direct },
    { "resizing", resizing },
    { "reopening", reopening },
    { "auto-read-only", auto_read_only },
    { "read-only", read_only },
    { "two-nodes", two_nodes },
    { "through-raw", through_raw },
    { NULL },
};

int main(int argc, char **argv)
{
    return run_main(argc, argv, scenarios);
}
