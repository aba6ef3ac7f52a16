/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Objects of type "secret" (util/secret.c) */
#include <string.h>
#include <unistd.h>

#include "unit-main.h"
#include "util/secret.h"

/* How each piece of memory that has been overwritten began before, up to */
#define BEGINNING 8
static char wiped[1 << 20];

void __real_explicit_bzero(void *buf, size_t size);
void __wrap_explicit_bzero(void *buf, size_t size);

void __wrap_explicit_bzero(void *buf, size_t size)
{
    g_strlcat(wiped, "|", sizeof(wiped));
    strncat(wiped, buf, MIN(size, BEGINNING));
    __real_explicit_bzero(buf, size);
}

/* The secret that these options make, or NULL; and what is said instead */
static Secret *create(const char *data, const char *file, const char *format,
                      char **message)
{
    g_autoptr(JsonObject) options = json_object_new();
    g_autoptr(GError) err = NULL;
    Secret *s;

    if (data) {
        json_object_set_string_member(options, "data", data);
    }
    if (file) {
        json_object_set_string_member(options, "file", file);
    }
    if (format) {
        json_object_set_string_member(options, "format", format);
    }
    s = secret_object.create("s0", options, &err);
    ck_assert((s == NULL) == (err != NULL));
    if (message) {
        *message = err ? g_strdup(err->message) : NULL;
    }
    return s;
}

static void is_secret(const char *data, const char *file, const char *format,
                      const char *want)
{
    Secret *s = create(data, file, format, NULL);
    const void *bytes;
    size_t size;

    ck_assert_ptr_nonnull(s);
    bytes = secret_bytes(s, &size);
    ck_assert_uint_eq(size, strlen(want));
    if (size) {
        ck_assert_mem_eq(bytes, want, size);
    }
    secret_object.destroy(s);
}

static void refused(const char *data, const char *file, const char *format,
                    const char *want)
{
    g_autofree char *message = NULL;

    ck_assert_ptr_null(create(data, file, format, &message));
    ck_assert_msg(strstr(message, want) != NULL, "%s", message);
    ck_assert(!data || !strstr(message, data));
}

START_TEST(test_data)
{
    is_secret("hush", NULL, NULL, "hush");
    is_secret("hush", NULL, "raw", "hush");
    is_secret("", NULL, NULL, "");
    is_secret("aHVzaA==", NULL, "raw", "aHVzaA==");
    refused(NULL, NULL, NULL, "Either");
    refused("hush", "/dev/null", NULL, "mutually exclusive");
}
END_TEST

START_TEST(test_base64)
{
    is_secret("", NULL, "base64", "");
    is_secret("aHVzaA==", NULL, "base64", "hush");
    is_secret("aHVz\naGU=\n", NULL, "base64", "hushe");
    is_secret("fn5+Pz8/", NULL, "base64", "~~~???");
    refused("aHVzaA", NULL, "base64", "base64");
    refused("aHVzaA=", NULL, "base64", "base64");
    refused("aHVzaA===", NULL, "base64", "base64");
    refused("aHVz====", NULL, "base64", "base64");
    refused("aH=zaA==", NULL, "base64", "base64");
    refused("aHVz aA==", NULL, "base64", "base64");
    refused("aHVz?A==", NULL, "base64", "base64");
}
END_TEST

START_TEST(test_file)
{
    g_autofree char *name = NULL;
    g_autofree char *large = g_strnfill(65537, 'x');
    int fd = g_file_open_tmp("secret-XXXXXX", &name, NULL);

    ck_assert_int_ge(fd, 0);
    close(fd);
    ck_assert(g_file_set_contents(name, "hush\n", -1, NULL));
    is_secret(NULL, name, NULL, "hush\n");
    ck_assert(g_file_set_contents(name, "aHVzaA==\n", -1, NULL));
    is_secret(NULL, name, "base64", "hush");
    ck_assert(g_file_set_contents(name, "", -1, NULL));
    is_secret(NULL, name, NULL, "");
    ck_assert(g_file_set_contents(name, large, 65536, NULL));
    is_secret(NULL, name, NULL, large + 1);
    ck_assert(g_file_set_contents(name, large, 65537, NULL));
    refused(NULL, name, NULL, "65536");
    unlink(name);
    refused(NULL, name, NULL, name);
    refused(NULL, "/", NULL, "/");
}
END_TEST

/* All that the secret was held in on its way is overwritten. */
START_TEST(test_wiped)
{
    g_autofree char *name = NULL;
    int fd = g_file_open_tmp("secret-XXXXXX", &name, NULL);
    Secret *s;

    ck_assert_int_ge(fd, 0);
    close(fd);
    ck_assert(g_file_set_contents(name, "aHVzaA==", -1, NULL));
    s = create(NULL, name, "base64", NULL);
    ck_assert_str_eq(wiped, "|aHVzaA==|aHVzaA==");
    secret_object.destroy(s);
    ck_assert_str_eq(wiped, "|aHVzaA==|aHVzaA==|hush");
    unlink(name);

    wiped[0] = '\0';
    refused("not base64", NULL, "base64", "base64");
    ck_assert_str_eq(wiped, "|not base");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("secret");
    TCase *tc = tcase_create("secret");

    tcase_add_test(tc, test_data);
    tcase_add_test(tc, test_base64);
    tcase_add_test(tc, test_file);
    tcase_add_test(tc, test_wiped);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
