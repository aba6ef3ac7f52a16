/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Objects that users create by name */
#include "util/object.h"

#include <string.h>

#include "util/error.h"
#include "util/id.h"
#include "util/limits.h"
#include "util/thread.h"

typedef struct Object {
    const ObjectType *type;
    char *id;
    void *obj;
    unsigned users; /* objects_lock */
} Object;

static Mutex objects_lock = MUTEX_INIT;
static GPtrArray *objects; /* of Object, in order of creation; objects_lock */

/* objects_lock held */
static Object *find(const char *id)
{
    guint i;

    for (i = 0; objects && i < objects->len; i++) {
        Object *o = objects->pdata[i];

        if (!strcmp(o->id, id)) {
            return o;
        }
    }
    return NULL;
}

/* Objects come and go with the graph mutex held: what is said stays true. */
static bool check_id(const char *id, GError **errp)
{
    if (!limit_length(id, NAME_MAX_BYTES, "Parameter 'id'", errp)) {
        return false;
    }
    if (!id_wellformed(id)) {
        error_setg(errp, "Parameter 'id' expects an identifier, not '%s'", id);
        return false;
    }

    MUTEX_GUARD(&objects_lock);

    if (find(id)) {
        error_setg(errp, "There is already an object '%s'", id);
        return false;
    }
    return limit_allows(objects ? objects->len : 0, limits.objects, "objects",
                        errp);
}

bool object_add(const ObjectType *type, const char *id, JsonObject *options,
                GError **errp)
{
    void *obj;
    Object *o;

    if (!check_id(id, errp)) {
        return false;
    }
    obj = type->create(id, options, errp);
    if (!obj) {
        return false;
    }
    o = g_new0(Object, 1);
    o->type = type;
    o->id = g_strdup(id);
    o->obj = obj;

    MUTEX_GUARD(&objects_lock);

    if (!objects) {
        objects = g_ptr_array_new();
    }
    g_ptr_array_add(objects, o);
    return true;
}

/* Nobody can find it any more. */
static void destroy(Object *o)
{
    g_assert(o->users == 0);
    o->type->destroy(o->obj);
    g_free(o->id);
    g_free(o);
}

/* objects_lock held */
static void forget(Object *o)
{
    g_ptr_array_remove(objects, o);
    if (objects->len == 0) {
        g_clear_pointer(&objects, g_ptr_array_unref);
    }
}

bool object_del(const char *id, GError **errp)
{
    Object *o;

    mutex_lock(&objects_lock);
    o = find(id);
    if (!o || o->users > 0) {
        error_setg(errp,
                   o ? "object '%s' is in use, can not be deleted"
                     : "object '%s' not found",
                   id);
        mutex_unlock(&objects_lock);
        return false;
    }
    forget(o);
    mutex_unlock(&objects_lock);
    destroy(o);
    return true;
}

void object_del_all(void)
{
    guint i;

    MUTEX_GUARD(&objects_lock);

    for (i = objects ? objects->len : 0; i-- > 0;) {
        Object *o = objects->pdata[i];

        if (o->users == 0) {
            forget(o);
            destroy(o);
        }
    }
}

void *object_use(const ObjectType *type, const char *id)
{
    Object *o;

    MUTEX_GUARD(&objects_lock);

    o = find(id);
    if (!o || o->type != type) {
        return NULL;
    }
    o->users++;
    return o->obj;
}

void object_release(void *obj)
{
    guint i;

    MUTEX_GUARD(&objects_lock);

    for (i = 0; i < objects->len; i++) {
        Object *o = objects->pdata[i];

        if (o->obj == obj) {
            g_assert(o->users > 0);
            o->users--;
            return;
        }
    }
    g_assert_not_reached();
}

/* ---- properties --------------------------------------------------------- */

/* objects_lock held */
static Object *find_path(const char *path, GError **errp)
{
    static const char root[] = "/objects/";
    Object *o = find(g_str_has_prefix(path, root) ? path + strlen(root) : path);

    if (!o) {
        error_set_class(errp, ERROR_DEVICE_NOT_FOUND, "Device '%s' not found",
                        path);
    }
    return o;
}

static const ObjectProperty *find_property(Object *o, const char *name,
                                           GError **errp)
{
    const ObjectProperty *p;

    for (p = o->type->properties; p->name; p++) {
        if (!strcmp(p->name, name)) {
            return p;
        }
    }
    error_setg(errp, "Property '%s.%s' not found", o->type->name, name);
    return NULL;
}

JsonNode *object_get_property(const char *path, const char *property,
                              GError **errp)
{
    const ObjectProperty *p;
    Object *o;

    MUTEX_GUARD(&objects_lock);

    o = find_path(path, errp);
    if (!o) {
        return NULL;
    }
    if (!strcmp(property, "type")) {
        return json_node_init_string(json_node_alloc(), o->type->name);
    }
    p = find_property(o, property, errp);
    if (p && !p->get) {
        error_setg(errp, "Property '%s.%s' is not readable", o->type->name,
                   property);
        p = NULL;
    }
    return p ? p->get(o->obj, property) : NULL;
}

bool object_set_property(const char *path, const char *property,
                         JsonNode *value, GError **errp)
{
    const ObjectProperty *p;
    Object *o;

    MUTEX_GUARD(&objects_lock);

    o = find_path(path, errp);
    p = o ? find_property(o, property, errp) : NULL;
    if (!p) {
        return false;
    }
    if (!p->set) {
        error_setg(errp, "Property '%s.%s' is not writable", o->type->name,
                   property);
        return false;
    }
    return schema_check(p->type, value, property, false, errp) &&
           p->set(o->obj, value, errp);
}
