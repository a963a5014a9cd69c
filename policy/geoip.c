/*
 * geoip - libmaxminddb over a private copy of the file. The library maps what it opens; a database
 * that somebody writes over in place (cp, rsync --inplace) would end the process with SIGBUS, so
 * the file is copied into an anonymous one first.
 *
 * Opening reads the whole search tree and every entry that it leads to: a truncated or damaged file
 * is refused then, and a look-up cannot meet what it cannot read. Called by relayd/settings.c; the
 * look-ups come from relayd/facts_domain.c.
 */
#include "policy/geoip.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <maxminddb.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "policy/base/span.h"
#include "policy/config_load.h"

/* It is held in memory; country databases are 10 MB. */
#define DATABASE_BYTES_MAX ((off_t)1 << 30)

struct geoip {
    MMDB_s db;
    atomic_uint refs;
};

static void
close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

/* All of `from` into an anonymous file; -1 and `err` when it cannot be done. */
static int
copy(int from, struct err *err)
{
    struct stat st;
    if (fstat(from, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size == 0 ||
        st.st_size > DATABASE_BYTES_MAX) {
        err_set(err, ERR_INVAL, "expected a file that is not empty, of 1 GiB at most");
        return -1;
    }
    int to = memfd_create("geoip", MFD_CLOEXEC);
    for (off_t left = st.st_size; to >= 0 && left > 0;) {
        ssize_t n = sendfile(to, from, NULL, (size_t)left);
        if (n > 0) {
            left -= n;
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        err_set(err, n == 0 ? ERR_INVAL : ERR_IO, "%s",
                n == 0 ? "cut short while it was read" : strerror(errno));
        close(to);
        return -1;
    }
    if (to < 0)
        err_set(err, ERR_IO, "memfd_create: %s", strerror(errno));
    return to;
}

static enum err_code
map_file(const char *path, MMDB_s *db, struct err *err)
{
    char name[40];
    CLEANUP(close_fd) int from = open(path, O_RDONLY | O_CLOEXEC);
    if (from < 0)
        return config_open_failed(path, errno, err);
    struct err why;
    CLEANUP(close_fd) int fd = copy(from, &why);
    if (fd < 0)
        return err_set(err, why.code, "%s", why.text);
    snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    int error = MMDB_open(name, MMDB_MODE_MMAP, db);
    if (error == MMDB_IO_ERROR || error == MMDB_FILE_OPEN_ERROR)
        return err_set(err, ERR_IO, "%s: %s", name, strerror(errno));
    if (error == MMDB_OUT_OF_MEMORY_ERROR)
        out_of_memory();
    if (error != MMDB_SUCCESS)
        return err_set(err, ERR_INVAL, "%s", MMDB_strerror(error));
    return ERR_OK;
}

/* The code that the entry has under `what`; false: none. *ret_sound is false when the entry itself
 * cannot be read. */
static bool
entry_code(MMDB_entry_s *entry, const char *what, char code[static 3], bool *ret_sound)
{
    MMDB_entry_data_s data;
    int error = MMDB_get_value(entry, &data, what, "iso_code", NULL);
    if (error != MMDB_SUCCESS && error != MMDB_LOOKUP_PATH_DOES_NOT_MATCH_DATA_ERROR)
        *ret_sound = false;
    if (error != MMDB_SUCCESS || !data.has_data || data.type != MMDB_DATA_TYPE_UTF8_STRING ||
        data.data_size != 2 || !ascii_alpha(data.utf8_string[0]) ||
        !ascii_alpha(data.utf8_string[1]))
        return false;
    code[0] = (char)(data.utf8_string[0] & ~0x20);
    code[1] = (char)(data.utf8_string[1] & ~0x20);
    code[2] = '\0';
    return true;
}

static bool
entry_country(MMDB_entry_s *entry, char code[static 3], bool *ret_sound)
{
    return entry_code(entry, "country", code, ret_sound) ||
           entry_code(entry, "registered_country", code, ret_sound);
}

/* What the tree leads to, looked at once each. */
struct walk {
    uint8_t *seen; /* one bit for each byte of the data section */
    size_t n_countries;
    bool sound;
};

static void
check_record(const MMDB_s *db, uint8_t type, MMDB_entry_s *entry, struct walk *walk)
{
    char code[3];
    if (type == MMDB_RECORD_TYPE_INVALID ||
        (type == MMDB_RECORD_TYPE_DATA && entry->offset >= db->data_section_size))
        walk->sound = false;
    else if (type == MMDB_RECORD_TYPE_DATA &&
             (walk->seen[entry->offset / 8] >> entry->offset % 8 & 1) == 0) {
        walk->seen[entry->offset / 8] |= (uint8_t)(1u << entry->offset % 8);
        walk->n_countries += entry_country(entry, code, &walk->sound);
    }
}

static enum err_code
check_tree(const MMDB_s *db, struct err *err)
{
    struct walk walk = {.sound = true};
    walk.seen = xcalloc(db->data_section_size / 8 + 1, 1);
    for (uint32_t i = 0; i < db->metadata.node_count && walk.sound; i++) {
        MMDB_search_node_s node;
        if (MMDB_read_node(db, i, &node) != MMDB_SUCCESS) {
            walk.sound = false;
            break;
        }
        check_record(db, node.left_record_type, &node.left_record_entry, &walk);
        check_record(db, node.right_record_type, &node.right_record_entry, &walk);
    }
    free(walk.seen);
    if (!walk.sound)
        return err_set(err, ERR_INVAL, "damaged: its search tree leads to what cannot be read");
    if (walk.n_countries == 0)
        return err_set(err, ERR_INVAL,
                       "no country in it (its type is %.60s), expected a database "
                       "such as GeoLite2-Country",
                       db->metadata.database_type);
    return ERR_OK;
}

enum err_code
geoip_open(const char *path, struct geoip **ret, struct err *err)
{
    struct geoip *geoip = xcalloc(1, sizeof(*geoip));
    enum err_code code = map_file(path, &geoip->db, err);
    if (code != ERR_OK) {
        free(geoip);
        return code;
    }
    atomic_init(&geoip->refs, 1);
    code = check_tree(&geoip->db, err);
    if (code != ERR_OK) {
        geoip_close(geoip);
        return code;
    }
    *ret = geoip;
    return ERR_OK;
}

struct geoip *
geoip_take(struct geoip *geoip)
{
    if (geoip != NULL)
        atomic_fetch_add(&geoip->refs, 1);
    return geoip;
}

void
geoip_close(struct geoip *geoip)
{
    if (geoip == NULL)
        return;
    unsigned before = atomic_fetch_sub(&geoip->refs, 1);
    assert(before > 0);
    if (before > 1)
        return;
    MMDB_close(&geoip->db);
    free(geoip);
}

bool
geoip_country(const struct geoip *geoip, const struct ip *ip, char code[static 3])
{
    struct sockaddr_storage ss;
    int error;
    bool sound = true;

    if (geoip == NULL || ip_is_special(ip))
        return false;
    ip_to_sockaddr(ip, 0, &ss);
    MMDB_lookup_result_s found =
        MMDB_lookup_sockaddr(&geoip->db, (const struct sockaddr *)&ss, &error);
    return error == MMDB_SUCCESS && found.found_entry && entry_country(&found.entry, code, &sound);
}
