/* Shared by the addon's source files. */
#ifndef FERRY_ADDON_H
#define FERRY_ADDON_H

#include <node_api.h>

typedef void (*ferry_export)(napi_env env, napi_value exports, const char *name, napi_callback function);

/* pages.c: bulk page loops that run on libuv's threads. */
void ferry_register_pages(napi_env env, napi_value exports, ferry_export export_function);

/* userfault-events.c: a thread that answers events of userfaultfds. */
void ferry_register_userfault_events(napi_env env, napi_value exports, ferry_export export_function);

/* ahead.c: batches of system calls that a thread makes. */
void ferry_register_ahead(napi_env env, napi_value exports, ferry_export export_function);

/* landlock.c: a thread that is restricted, to learn from. */
void ferry_register_landlock(napi_env env, napi_value exports, ferry_export export_function);

#endif
