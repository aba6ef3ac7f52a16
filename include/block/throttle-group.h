/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Objects of type "throttle-group": limits that several nodes share. Any
 * thread, unless it says otherwise.
 */
#ifndef BLOCK_THROTTLE_GROUP_H
#define BLOCK_THROTTLE_GROUP_H

#include <stdbool.h>
#include <stdint.h>

#include "util/object.h"

typedef struct ThrottleGroup ThrottleGroup;
/* One node of a group */
typedef struct ThrottleMember ThrottleMember;

extern const ObjectType throttle_group_object;

/* The object is in use by the caller until the member is freed, without any
 * request of its own. */
ThrottleMember *throttle_member_new(ThrottleGroup *group);
void throttle_member_free(ThrottleMember *member);

/*
 * Inside a request: wait until one of @bytes may go. 0, or -ECANCELED if the
 * request is given up. It goes at once where somebody drains the node or where
 * there is nobody to give it up.
 */
int throttle_member_wait(ThrottleMember *member, bool is_write, int64_t bytes);

#endif
