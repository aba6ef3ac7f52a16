/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "image.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <unistd.h>

static GBytes *template;

bool create(const char *driver, const char *options, GError **errp)
{
    g_autofree char *text = g_strdelimit(g_strdup(options), "'", '"');
    g_autoptr(JsonNode) node = json_from_string(text, NULL);

    g_assert(node);
    return bdrv_find_driver(driver)->create(json_node_get_object(node), NULL,
                                            errp) == 0;
}

void image_prepare(const char *options)
{
    g_autofree char *path = g_build_filename(run_dir, "template", NULL);
    g_autofree char *file = g_strdup_printf("{'filename':'%s','size':0}", path);
    g_autofree char *image = g_strdup_printf(
        "{'file':{'driver':'file','filename':'%s'},'size':%d%s%s}", path,
        (int)LENGTH, *options ? "," : "", options);
    GError *err = NULL;

    if (!create("file", file, &err) || !create("qcow2", image, &err)) {
        g_error("%s", err->message);
    }
    template = file_contents(path);
    g_remove(path);
}

void image_change(void (*func)(void))
{
    image_make("");
    REQUIRE(disk_try_open(NULL));
    func();
    disk_try_close();
    g_bytes_unref(template);
    template = file_contents(disk.path);
    disk_drop();
}

char *image_options(const char *path, const char *options)
{
    return g_strdup_printf(
        "{'driver':'qcow2','node-name':'d','discard':'unmap','file':"
        "{'driver':'file','filename':'%s','discard':'unmap'}%s%s}",
        path, *options ? "," : "", options);
}

void image_make(const char *options)
{
    g_autofree char *text = NULL;
    gsize bytes;
    const void *data = g_bytes_get_data(template, &bytes);
    int fd;

    disk = (Disk){ .path = g_build_filename(run_dir, "disk", NULL) };
    disk.model = model_new(LENGTH, MAX_LENGTH);
    fd = open(disk.path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    REQUIRE(fd >= 0 && write(fd, data, bytes) == (ssize_t)bytes);
    close(fd);
    text = image_options(disk.path, options);
    disk_use(text, false);
}

static void say(void *opaque, const char *line)
{
    printf("# %s\n", line);
}

void image_check(const char *path)
{
    g_autofree char *text = g_strdup_printf(
        "{\"driver\":\"qcow2\",\"node-name\":\"check\",\"read-only\":true,"
        "\"backing\":null,\"file\":{\"driver\":\"file\",\"filename\":\"%s\"}}",
        path);
    g_autoptr(JsonNode) node = json_from_string(text, NULL);
    BdrvCheckResult res = { 0 };
    GError *err = NULL;
    BlockDriverState *bs;

    bdrv_graph_lock();
    bs = bdrv_open_to_check(json_node_get_object(node), &err);
    if (!bs || bs->drv->check(bs, &res, 0, &err) < 0) {
        run_fail("the image cannot be checked: %s", err->message);
    }
    if (res.corruptions || res.check_errors) {
        res.report = say;
        bs->drv->check(bs, &res, 0, NULL);
        run_fail("the image has %jd corruptions", (intmax_t)res.corruptions);
    }
    REQUIRE(bdrv_monitor_del("check", NULL));
    bdrv_graph_unlock();
}

void image_finish(void)
{
    disk_flush();
    disk_check();
    disk_close();
    image_check(disk.path);
    /* Once more, as it is in the file */
    op_begin("look");
    op_stop();
    REQUIRE(disk_try_open(NULL));
    disk_check();
    disk_status(BDRV_WANT_PRECISE);
    disk_try_close();
    disk_drop();
}
