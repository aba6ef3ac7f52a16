/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Groups of nodes that share limits, fairly.
 *
 * Reads and writes wait in lines of their own. Each member of a group has one
 * line for each, and of all lines of a direction one waiter is the head: the
 * only one that waits for the time. When it goes, or gives up, it makes the
 * first waiter of the next member that has one the head, so the members take
 * turns, request by request. As long as there is a head nobody overtakes it.
 *
 * A request waits with bdrv_wait_turn(): it goes at once, although it counts,
 * when its gate is closed, and is given up when its user goes away. That is all
 * there is to draining.
 */
#include "block/throttle-group.h"

#include <string.h>

#include "block/block-int.h"
#include "block/throttle-state.h"
#include "util/thread.h"

typedef struct Waiter Waiter;
struct Waiter {
    ThrottleMember *member;
    Waiter *next; /* of this member and direction */
    Cond cond;
};

struct ThrottleMember {
    ThrottleGroup *group;
    Waiter *line[2]; /* by is_write, the first to come first; group's lock */
};

struct ThrottleGroup {
    int limited; /* atomic: there is any limit */
    Mutex lock;  /* protects all that follows */
    ThrottleState state;
    GPtrArray *members;
    Waiter *head[2]; /* by is_write */
};

/* ---- members ------------------------------------------------------------ */

ThrottleMember *throttle_member_new(ThrottleGroup *group)
{
    ThrottleMember *member = g_new0(ThrottleMember, 1);

    member->group = group;
    MUTEX_GUARD(&group->lock);
    g_ptr_array_add(group->members, member);
    return member;
}

void throttle_member_free(ThrottleMember *member)
{
    ThrottleGroup *group = member->group;

    g_assert(!member->line[0] && !member->line[1]);
    mutex_lock(&group->lock);
    g_ptr_array_remove(group->members, member);
    mutex_unlock(&group->lock);
    g_free(member);
}

/* ---- lines -------------------------------------------------------------- */

/* group->lock held, for all of these */

static void line_append(Waiter *w, bool is_write)
{
    Waiter **p = &w->member->line[is_write];

    while (*p) {
        p = &(*p)->next;
    }
    *p = w;
}

static void line_remove(Waiter *w, bool is_write)
{
    Waiter **p = &w->member->line[is_write];

    while (*p != w) {
        p = &(*p)->next;
    }
    *p = w->next;
}

/* The first waiter of the next member after @member that has one, or NULL */
static Waiter *next_head(ThrottleMember *member, bool is_write)
{
    GPtrArray *members = member->group->members;
    guint at = 0;
    guint i;

    g_ptr_array_find(members, member, &at);
    for (i = 1; i <= members->len; i++) {
        ThrottleMember *m = members->pdata[(at + i) % members->len];

        if (m->line[is_write]) {
            return m->line[is_write];
        }
    }
    return NULL;
}

static void pass_on(Waiter *w, bool is_write)
{
    ThrottleGroup *group = w->member->group;
    Waiter *head;

    if (group->head[is_write] != w) {
        return;
    }
    head = next_head(w->member, is_write);
    group->head[is_write] = head;
    if (head) {
        cond_broadcast(&head->cond);
    }
}

static int wait_in_line(Waiter *w, bool is_write, BdrvCancel *cancel)
{
    ThrottleGroup *group = w->member->group;
    int ret = 0;

    while (ret == 0) {
        int64_t deadline_us = INT64_MAX;
        int64_t wait_ns;

        if (group->head[is_write] == w) {
            wait_ns =
                throttle_state_wait(&group->state, is_write, throttle_now_ns());
            if (wait_ns == 0) {
                break;
            }
            deadline_us = g_get_monotonic_time() + (wait_ns + 999) / 1000;
        }
        ret = bdrv_wait_turn(&w->cond, &group->lock, deadline_us, cancel);
        if (ret == -ETIMEDOUT) {
            ret = 0;
        }
    }
    return ret == -EAGAIN ? 0 : ret;
}

static int take_turn(ThrottleMember *member, bool is_write, BdrvCancel *cancel)
{
    ThrottleGroup *group = member->group;
    Waiter w = { .member = member };
    int ret;

    cond_init(&w.cond);
    line_append(&w, is_write);
    if (!group->head[is_write]) {
        group->head[is_write] = &w;
    }
    ret = wait_in_line(&w, is_write, cancel);
    line_remove(&w, is_write);
    pass_on(&w, is_write);
    cond_destroy(&w.cond);
    return ret;
}

int throttle_member_wait(ThrottleMember *member, bool is_write, int64_t bytes)
{
    ThrottleGroup *group = member->group;
    BdrvCancel *cancel = bdrv_request_cancel();
    int ret = 0;

    if (!g_atomic_int_get(&group->limited)) {
        return 0;
    }
    MUTEX_GUARD(&group->lock);
    if (cancel &&
        (group->head[is_write] ||
         throttle_state_wait(&group->state, is_write, throttle_now_ns()) > 0)) {
        ret = take_turn(member, is_write, cancel);
    }
    if (ret == 0) {
        throttle_state_account(&group->state, is_write, bytes);
    }
    return ret;
}

/* ---- the object --------------------------------------------------------- */

/* All begin anew, with empty buckets. */
static void set_limits(ThrottleGroup *group, const ThrottleLimits *limits)
{
    int i;

    MUTEX_GUARD(&group->lock);

    throttle_state_init(&group->state, limits, throttle_now_ns());
    g_atomic_int_set(&group->limited, throttle_limits_any(limits));
    for (i = 0; i < 2; i++) {
        if (group->head[i]) {
            cond_broadcast(&group->head[i]->cond);
        }
    }
}

static ThrottleLimits get_limits(ThrottleGroup *group)
{
    MUTEX_GUARD(&group->lock);

    return group->state.limits;
}

static void *group_create(const char *id, JsonObject *options, GError **errp)
{
    JsonObject *given = schema_get_object(options, "limits");
    ThrottleLimits limits = throttle_no_limits;
    ThrottleGroup *group;

    if (!throttle_limits_merge(&limits, options, "x-", errp) ||
        (given && !throttle_limits_merge(&limits, given, "", errp)) ||
        !throttle_limits_check(&limits, errp)) {
        return NULL;
    }
    group = g_new0(ThrottleGroup, 1);
    mutex_init(&group->lock);
    group->members = g_ptr_array_new();
    set_limits(group, &limits);
    return group;
}

static void group_destroy(void *obj)
{
    ThrottleGroup *group = obj;

    g_assert(group->members->len == 0);
    g_ptr_array_unref(group->members);
    mutex_destroy(&group->lock);
    g_free(group);
}

static JsonNode *group_get_limits(void *obj, const char *name)
{
    ThrottleLimits limits = get_limits(obj);
    JsonObject *object = json_object_new();
    JsonNode *node;
    int i;

    for (i = 0; i < THROTTLE_NAMES; i++) {
        json_object_set_int_member(object, throttle_limit_name(i),
                                   throttle_limit_get(&limits, i));
    }
    node = json_node_init_object(json_node_alloc(), object);
    json_object_unref(object);
    return node;
}

/* What is not mentioned stays as it is. */
static bool group_set_limits(void *obj, JsonNode *value, GError **errp)
{
    ThrottleLimits limits = get_limits(obj);

    if (!throttle_limits_merge(&limits, json_node_get_object(value), "",
                               errp) ||
        !throttle_limits_check(&limits, errp)) {
        return false;
    }
    set_limits(obj, &limits);
    return true;
}

/* @name is "x-" and one of the names. */
static JsonNode *group_get_limit(void *obj, const char *name)
{
    ThrottleLimits limits = get_limits(obj);
    int i = 0;

    while (strcmp(throttle_limit_name(i), name + strlen("x-"))) {
        i++;
    }
    return json_node_init_int(json_node_alloc(),
                              throttle_limit_get(&limits, i));
}

/* M(name) of all names with the prefix */
#define X_KIND(M, kind)                                                        \
    M("x-" kind), M("x-" kind "-max"), M("x-" kind "-max-length")
#define X_NAMES(M)                                                             \
    X_KIND(M, "iops-total"), X_KIND(M, "iops-read"), X_KIND(M, "iops-write"),  \
        X_KIND(M, "bps-total"), X_KIND(M, "bps-read"), X_KIND(M, "bps-write"), \
        M("x-iops-size")

#define X_PROPERTY(n)                                                          \
    {                                                                          \
        .name = n, .type = &schema_int, .get = group_get_limit                 \
    }
#define X_MEMBER(n)                                                            \
    {                                                                          \
        n, &schema_int,                                                        \
            .optional = true, .unstable = true,                                \
            .doc = "As in \"limits\", which counts if both are given."         \
    }

static const ObjectProperty properties[] = {
    { "limits", &throttle_limits_type, group_get_limits, group_set_limits },
    X_NAMES(X_PROPERTY),
    { NULL },
};

static const SchemaType options_type = {
    .name = "ThrottleGroupProperties",
    .kind = SCHEMA_OBJECT,
    .doc = "Limits that all nodes of driver \"throttle\" that name the group "
           "keep together, taking turns. qom-set changes \"limits\"; those it "
           "does not mention stay as they are.",
    .members =
        (const SchemaMember[]){
            { "limits", &throttle_limits_type, .optional = true,
              .doc = "The limits. Default: none." },
            X_NAMES(X_MEMBER),
            { NULL },
        },
};

const ObjectType throttle_group_object = {
    .name = "throttle-group",
    .options = &options_type,
    .properties = properties,
    .create = group_create,
    .destroy = group_destroy,
};
