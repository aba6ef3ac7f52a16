/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: compressed clusters are read.
 *
 * An L2 entry says where the data begins, to the byte, and how many sectors of 512
 * bytes it touches at most; what it ends with shows when a cluster is full. The
 * data is anybody's: decompressors get what there is and write what fits, and
 * allocate nothing by its say-so.
 */
#include <errno.h>
#include <zlib.h>
#include <zstd.h>

#include "block/qcow2.h"

#define SECTOR 512

bool qcow2_compressed_range(const Qcow2State *s, uint64_t l2_entry,
                            uint64_t *offset, uint64_t *bytes)
{
    unsigned offset_bits = 62 - (s->cluster_bits - 8);
    uint64_t sectors_mask = (UINT64_C(1) << (s->cluster_bits - 8)) - 1;
    uint64_t sectors = ((l2_entry >> offset_bits) & sectors_mask) + 1;

    *offset = l2_entry & ((UINT64_C(1) << offset_bits) - 1);
    *bytes = sectors * SECTOR - *offset % SECTOR;
    return *offset >= (uint64_t)s->cluster_size &&
           *offset <= QCOW2_MAX_FILE_BYTES - *bytes;
}

/* Raw deflate, without zlib's frame; windows of any size */
static int inflate_cluster(const uint8_t *in, size_t in_bytes, uint8_t *out,
                           size_t out_bytes)
{
    z_stream z = { .next_in = (Bytef *)in,
                   .avail_in = in_bytes,
                   .next_out = out,
                   .avail_out = out_bytes };
    int ret;

    if (inflateInit2(&z, -MAX_WBITS) != Z_OK) {
        return -ENOMEM;
    }
    ret = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    /* Nothing says that it has to end where the cluster is full. */
    return (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && z.avail_out == 0
               ? 0
               : -EIO;
}

/* Frames one after another, until the cluster is full */
static int unzstd_cluster(const uint8_t *in, size_t in_bytes, uint8_t *out,
                          size_t out_bytes)
{
    ZSTD_DCtx *context = ZSTD_createDCtx();
    int ret = 0;

    if (!context) {
        return -ENOMEM;
    }
    while (ret == 0 && out_bytes > 0) {
        size_t frame = ZSTD_findFrameCompressedSize(in, in_bytes);
        size_t n;

        if (ZSTD_isError(frame) || frame == 0) {
            ret = -EIO;
            break;
        }
        n = ZSTD_decompressDCtx(context, out, out_bytes, in, frame);
        if (ZSTD_isError(n)) {
            ret = -EIO;
            break;
        }
        in += frame;
        in_bytes -= frame;
        out += n;
        out_bytes -= n;
    }
    ZSTD_freeDCtx(context);
    return ret;
}

int qcow2_read_compressed(Qcow2State *s, uint64_t l2_entry, uint8_t *buf)
{
    int64_t length = bdrv_child_getlength(s->bs->file);
    g_autofree uint8_t *in = NULL;
    uint64_t offset, bytes;
    int ret;

    if (length < 0) {
        return length;
    }
    if (!qcow2_compressed_range(s, l2_entry, &offset, &bytes) ||
        offset >= (uint64_t)length) {
        return -EIO;
    }
    /* The file need not go on to the end of the last sector. */
    bytes = MIN(bytes, length - offset);
    in = g_malloc(bytes);
    ret = qcow2_read_file(s, offset, bytes, in);
    if (ret < 0) {
        return ret;
    }
    return s->compression == QCOW2_COMPRESSION_ZSTD
               ? unzstd_cluster(in, bytes, buf, s->cluster_size)
               : inflate_cluster(in, bytes, buf, s->cluster_size);
}
