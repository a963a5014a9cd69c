/*
 * page - the status page: what GET /v1/status says, as one HTML document for a browser.
 *
 * No script, no picture, nothing from elsewhere (the answer's Content-Security-Policy forbids it);
 * it asks to be loaded again every PAGE_REFRESH_SECONDS. All text is escaped.
 */
#pragma once

#include "policy/base/span.h"

#include <cjson/cJSON.h>

#define PAGE_CONTENT_TYPE "text/html; charset=utf-8"
#define PAGE_REFRESH_SECONDS 15

/* Append the page for the status object `status` (README.md, "Status"). */
void page_status(const cJSON *status, struct strbuf *out);
