/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Objects of type "secret" */
#include "util/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "util/error.h"

/* Of a file: a password or key has no more. Bytes */
#define SECRET_MAX 65536

struct Secret {
    uint8_t *bytes;
    size_t size;
    bool base64;
    char *file; /* or NULL */
};

static const SchemaType format_type = {
    .name = "QCryptoSecretFormat",
    .kind = SCHEMA_ENUM,
    .doc = "How a secret is given: as it is, or in base64.",
    .values = (const char *const[]){ "raw", "base64", NULL },
};

static void wipe_free(uint8_t *bytes, size_t size)
{
    if (bytes) {
        explicit_bzero(bytes, size);
        g_free(bytes);
    }
}

/* ---- reading ------------------------------------------------------------ */

static ssize_t read_all(int fd, uint8_t *buf, size_t size)
{
    size_t done = 0;
    ssize_t n;

    do {
        n = read(fd, buf + done, size - done);
        if (n > 0) {
            done += n;
        }
    } while ((n > 0 && done < size) || (n < 0 && errno == EINTR));
    return n < 0 ? -errno : (ssize_t)done;
}

static bool read_file(Secret *s, const char *file, GError **errp)
{
    size_t capacity = SECRET_MAX + 1;
    uint8_t *buf;
    ssize_t n;
    int fd;

    fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        error_setg_errno(errp, errno, "Unable to read %s", file);
        return false;
    }
    buf = g_malloc(capacity);
    n = read_all(fd, buf, capacity);
    close(fd);
    if (n < 0) {
        error_setg_errno(errp, -n, "Unable to read %s", file);
    } else if (n > SECRET_MAX) {
        error_setg(errp, "%s is longer than %d bytes", file, SECRET_MAX);
    } else {
        s->bytes = g_memdup2(buf, n);
        s->size = n;
    }
    wipe_free(buf, capacity);
    return n >= 0 && n <= SECRET_MAX;
}

/* ---- base64 ------------------------------------------------------------- */

static bool base64_wellformed(const uint8_t *text, size_t size)
{
    size_t digits = 0, padding = 0;
    size_t i;

    for (i = 0; i < size; i++) {
        if (text[i] == '\n') {
            continue;
        }
        if (text[i] == '=') {
            padding++;
        } else if (padding == 0 && (g_ascii_isalnum(text[i]) ||
                                    text[i] == '+' || text[i] == '/')) {
            digits++;
        } else {
            return false;
        }
    }
    return padding <= 2 && (digits + padding) % 4 == 0;
}

static bool decode(Secret *s, GError **errp)
{
    uint8_t *text = s->bytes;
    size_t text_size = s->size;
    int state = 0;
    guint save = 0;

    if (!base64_wellformed(text, text_size)) {
        error_setg(errp, "The secret is not valid base64");
        return false;
    }
    s->bytes = g_malloc(text_size + 3);
    s->size = g_base64_decode_step((const char *)text, text_size, s->bytes,
                                   &state, &save);
    save = 0;
    wipe_free(text, text_size);
    return true;
}

/* ---- the object --------------------------------------------------------- */

static void secret_destroy(void *obj)
{
    Secret *s = obj;

    wipe_free(s->bytes, s->size);
    g_free(s->file);
    g_free(s);
}

static void *secret_create(const char *id, JsonObject *options, GError **errp)
{
    const char *data = schema_get_str(options, "data", NULL);
    const char *file = schema_get_str(options, "file", NULL);
    Secret *s;

    if (!data == !file) {
        error_setg(errp, data ? "'file' and 'data' are mutually exclusive"
                              : "Either 'file' or 'data' must be provided");
        return NULL;
    }
    s = g_new0(Secret, 1);
    s->base64 = schema_get_enum(options, "format", &format_type, 0);
    s->file = g_strdup(file);
    if (data) {
        s->size = strlen(data);
        s->bytes = g_memdup2(data, s->size);
    }
    if ((file && !read_file(s, file, errp)) ||
        (s->base64 && !decode(s, errp))) {
        secret_destroy(s);
        return NULL;
    }
    return s;
}

const void *secret_bytes(const Secret *secret, size_t *size)
{
    *size = secret->size;
    return secret->bytes;
}

static JsonNode *get_format(void *obj, const char *name)
{
    const Secret *s = obj;

    return json_node_init_string(json_node_alloc(),
                                 format_type.values[s->base64]);
}

static JsonNode *get_file(void *obj, const char *name)
{
    const Secret *s = obj;

    return json_node_init_string(json_node_alloc(), s->file ? s->file : "");
}

static const ObjectProperty properties[] = {
    { "data", &schema_str },
    { "file", &schema_str, .get = get_file },
    { "format", &format_type, .get = get_format },
    { NULL },
};

static const SchemaType options_type = {
    .name = "SecretProperties",
    .kind = SCHEMA_OBJECT,
    .doc = "A password or a key. Nothing uses secrets yet. What is given as "
           "\"data\" can be seen in the list of processes, in a shell's "
           "history and in a monitor's log; \"file\" is for real ones.",
    .members =
        (const SchemaMember[]){
            { "data", &schema_str, .optional = true,
              .doc = "The secret itself. Either this or \"file\" is "
                     "required." },
            { "file", &schema_str, .optional = true,
              .doc = "The file that it is read from, now: 64 KiB at most." },
            { "format", &format_type, .optional = true,
              .doc = "How it is given. Default: \"raw\"." },
            { NULL },
        },
};

const ObjectType secret_object = {
    .name = "secret",
    .options = &options_type,
    .properties = properties,
    .create = secret_create,
    .destroy = secret_destroy,
};
