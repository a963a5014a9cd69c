/*
 * geoip - the country of an IP address, by a database in MaxMind's format (GeoLite2-Country,
 * DB-IP, ...). libmaxminddb is used in geoip.c and nowhere else.
 *
 * The file is mapped: a database that is replaced by renaming a new file over it stays as it was
 * until the next reload opens the new one. An open database may be read by any thread.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/ip.h"

#include <stdbool.h>

struct geoip; /* opaque */

/*
 * Open the database and see that it is one of countries. Reads the file, so not on the loop.
 * ERR_NOT_FOUND, ERR_PERM, ERR_INVAL (no such database, or a broken one), ERR_IO; the sentence does
 * not name the file.
 */
MUST_CHECK enum err_code geoip_open(const char *path, struct geoip **ret, struct err *err);
/* One more holder, for who may outlive a reload. NULL is fine. Any thread. */
struct geoip *geoip_take(struct geoip *geoip);
/* Give it back; the last holder frees it. NULL is fine. Any thread. */
void geoip_close(struct geoip *geoip);

/*
 * The ISO 3166-1 code of the country where the address is, "US"; where the database does not say
 * that, of the one that it is registered in. False when it says neither, for special addresses
 * (ip_is_special()), and without a database (NULL).
 */
bool geoip_country(const struct geoip *geoip, const struct ip *ip, char code[static 3]);
