/*
 * How: durable bytes are kept per inode, everything younger as references into the log. A state is
 * built in scratch images: the durable bytes, then the pending writes in their order, sector by
 * sector as the fate says.
 */
#include "replay_disk.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "policy/base/mem.h"

uint64_t
disk_random(uint64_t *state, uint64_t n)
{
    /* splitmix64 */
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (z ^ (z >> 31)) % n;
}

static const char *
text_of(const struct record *r)
{
    return (const char *)(r + 1);
}

/* ---------------------------------------------------------------------------------- files */

static struct disk_file *
file_find(const struct disk *disk, uint64_t inode)
{
    for (struct disk_file *f = disk->files; f != NULL; f = f->next)
        if (f->inode == inode)
            return f;
    return NULL;
}

/* The newest file of this inode number is the first in the list. */
static struct disk_file *
file_new(struct disk *disk, uint64_t inode)
{
    struct disk_file *f = xcalloc(1, sizeof(*f));
    f->inode = inode;
    f->next = disk->files;
    disk->files = f;
    return f;
}

static void
room_make(struct disk_file *f, size_t n)
{
    if (n <= f->cap)
        return;
    f->cap = n + n / 2 + (1 << 20);
    f->bytes = xrealloc(f->bytes, f->cap);
}

static void
size_set(struct disk_file *f, size_t n)
{
    room_make(f, n);
    if (n > f->n)
        memset(f->bytes + f->n, 0, n - f->n);
    f->n = n;
}

static void
bytes_put(struct disk_file *f, size_t offset, const char *p, size_t n)
{
    if (offset + n > f->n)
        size_set(f, offset + n);
    memcpy(f->bytes + offset, p, n);
}

/* ---------------------------------------------------------------------------------- names */

static void
name_set(struct disk_name *names, const char *text, size_t n, struct disk_file *file)
{
    struct disk_name *at = NULL;
    for (size_t i = 0; i < DISK_NAMES; i++) {
        if (strlen(names[i].text) == n && memcmp(names[i].text, text, n) == 0) {
            at = &names[i];
            break;
        }
        if (at == NULL && names[i].text[0] == '\0')
            at = &names[i];
    }
    assert(at != NULL && n < sizeof(at->text));
    memset(at, 0, sizeof(*at));
    if (file != NULL) {
        memcpy(at->text, text, n);
        at->file = file;
    }
}

static void
names_apply(struct disk_name *names, const struct disk_pending *p)
{
    const char *text = text_of(p->record);
    size_t n = p->record->n;
    if (p->record->kind == RECORD_RENAME) {
        size_t from = strlen(text);
        name_set(names, text, from, NULL);
        name_set(names, text + from + 1, n - from - 1, p->file);
    } else {
        name_set(names, text, n, p->record->kind == RECORD_CREATE ? p->file : NULL);
    }
}

static bool
is_name(const struct disk_pending *p)
{
    return p->record->kind == RECORD_CREATE || p->record->kind == RECORD_RENAME ||
           p->record->kind == RECORD_UNLINK;
}

/* ---------------------------------------------------------------------------------- steps */

void
disk_init(struct disk *disk)
{
    *disk = (struct disk){.files = NULL};
}

void
disk_free(struct disk *disk)
{
    while (disk->files != NULL) {
        struct disk_file *f = disk->files;
        disk->files = f->next;
        free(f->bytes);
        free(f);
    }
    free(disk->pending);
}

static void
pending_add(struct disk *disk, const struct record *r, uint64_t at)
{
    if (disk->n_pending == disk->cap_pending) {
        disk->cap_pending = disk->cap_pending == 0 ? 64 : 2 * disk->cap_pending;
        disk->pending = xrealloc(disk->pending, disk->cap_pending * sizeof(disk->pending[0]));
    }
    struct disk_file *file =
        r->kind == RECORD_CREATE ? file_new(disk, r->file) : file_find(disk, r->file);
    assert(file != NULL || r->kind == RECORD_UNLINK);
    disk->pending[disk->n_pending++] = (struct disk_pending){r, file, at};
}

static void
make_durable(struct disk *disk, const struct disk_pending *p)
{
    if (is_name(p))
        names_apply(disk->names, p);
    else if (p->record->kind == RECORD_TRUNCATE)
        size_set(p->file, p->record->offset);
    else
        bytes_put(p->file, p->record->offset, text_of(p->record), p->record->n);
}

static bool
overlap(const struct record *a, const struct record *b)
{
    return a->offset < b->offset + b->n && b->offset < a->offset + a->n;
}

/* An O_DSYNC write has returned; older bytes under it go before it, so that they never come back.
 */
static void
written_through(struct disk *disk, uint64_t at)
{
    const struct record *done = NULL;
    struct disk_file *file = NULL;
    size_t kept = 0;
    for (size_t i = 0; i < disk->n_pending; i++)
        if (disk->pending[i].at == at) {
            done = disk->pending[i].record;
            file = disk->pending[i].file;
        }
    assert(done != NULL);
    for (size_t i = 0; i < disk->n_pending; i++) {
        struct disk_pending *p = &disk->pending[i];
        if (!is_name(p) && p->file == file && p->at <= at && overlap(p->record, done))
            make_durable(disk, p);
        else
            disk->pending[kept++] = *p;
    }
    disk->n_pending = kept;
}

static void
synced(struct disk *disk, uint64_t inode, uint64_t began)
{
    struct disk_file *file = inode == 0 ? NULL : file_find(disk, inode);
    size_t kept = 0;
    for (size_t i = 0; i < disk->n_pending; i++) {
        struct disk_pending *p = &disk->pending[i];
        if (p->at < began && (inode == 0 ? is_name(p) : !is_name(p) && p->file == file))
            make_durable(disk, p);
        else
            disk->pending[kept++] = *p;
    }
    disk->n_pending = kept;
}

static void
undone(struct disk *disk, uint64_t at)
{
    size_t kept = 0;
    for (size_t i = 0; i < disk->n_pending; i++)
        if (disk->pending[i].at != at)
            disk->pending[kept++] = disk->pending[i];
    disk->n_pending = kept;
}

void
disk_step(struct disk *disk, const struct record *r, uint64_t at)
{
    switch ((enum record_kind)r->kind) {
    case RECORD_CREATE:
    case RECORD_RENAME:
    case RECORD_UNLINK:
    case RECORD_WRITE:
    case RECORD_WRITE_SYNC:
    case RECORD_TRUNCATE:
        pending_add(disk, r, at);
        break;
    case RECORD_DONE:
        written_through(disk, r->ref);
        break;
    case RECORD_SYNC_END:
        synced(disk, r->file, r->ref);
        break;
    case RECORD_UNDONE:
        undone(disk, r->ref);
        break;
    case RECORD_FAILED:
        disk->failed = true;
        break;
    case RECORD_START:
    case RECORD_SYNC_BEGIN:
    case RECORD_ACK:
    case RECORD_TAKEN:
        break;
    }
}

/* --------------------------------------------------------------------------------- states */

/* How the sectors of one state fall. */
struct dice {
    enum disk_fate fate;
    uint64_t state;
    uint64_t percent; /* of the sectors that are there */
    uint64_t prefix;  /* writes whole before this one of the file, none behind it; UINT64_MAX: no */
    uint64_t n_writes;
};

static struct dice
dice_new(enum disk_fate fate, uint64_t seed, size_t n_pending)
{
    static const unsigned char percents[] = {50, 50, 5, 95, 1, 99, 20, 80};
    struct dice d = {.fate = fate, .state = seed, .prefix = UINT64_MAX};
    d.percent = percents[disk_random(&d.state, sizeof(percents))];
    if (disk_random(&d.state, 4) == 0)
        d.prefix = disk_random(&d.state, n_pending + 1);
    return d;
}

static bool
is_there(struct dice *d)
{
    switch (d->fate) {
    case DISK_NONE:
        return false;
    case DISK_ALL:
        return true;
    case DISK_RANDOM:
        break;
    }
    if (d->prefix != UINT64_MAX && d->n_writes != d->prefix)
        return d->n_writes < d->prefix;
    return disk_random(&d->state, 100) < d->percent;
}

/* `image` is of the file; *need is raised to the end of what is there. */
static void
write_apply(struct disk_file *image, const struct record *r, struct dice *d, size_t *need)
{
    size_t at = r->offset, end = r->offset + r->n;
    while (at < end) {
        size_t next = (at / DISK_SECTOR + 1) * DISK_SECTOR;
        size_t n = (next < end ? next : end) - at;
        if (is_there(d)) {
            bytes_put(image, at, text_of(r) + (at - r->offset), n);
            if (at + n > *need)
                *need = at + n;
        }
        at += n;
    }
}

/* The file after the cut. Its length is a fact of its own: sectors may be there and the length that
 * covers them not. */
static void
image_make(const struct disk *disk, const struct disk_file *file, struct dice *d,
           struct disk_file *image)
{
    size_t longest = file->n, need = file->n;
    room_make(image, file->n);
    if (file->n > 0)
        memcpy(image->bytes, file->bytes, file->n);
    image->n = file->n;
    for (size_t i = 0; i < disk->n_pending; i++) {
        const struct disk_pending *p = &disk->pending[i];
        if (is_name(p) || p->file != file)
            continue;
        if (p->record->kind == RECORD_TRUNCATE) {
            if (is_there(d)) {
                size_set(image, p->record->offset);
                need = longest = image->n;
            }
        } else {
            write_apply(image, p->record, d, &need);
            if (p->record->offset + p->record->n > longest)
                longest = p->record->offset + p->record->n;
        }
        d->n_writes++;
    }
    if (d->fate == DISK_RANDOM) {
        size_t sizes[] = {need, longest, file->n};
        size_set(image, sizes[disk_random(&d->state, 3)]);
    }
}

static bool
empty_dir(const char *dir)
{
    char path[4096];
    DIR *d = opendir(dir);
    struct dirent *e;
    if (d == NULL)
        return false;
    while ((e = readdir(d)) != NULL) {
        snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        if (e->d_name[0] != '.' && unlink(path) != 0) {
            closedir(d);
            return false;
        }
    }
    closedir(d);
    return true;
}

static bool
file_write(const char *dir, const char *name, const char *p, size_t n)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool good = fd >= 0 && (n == 0 || write(fd, p, n) == (ssize_t)n);
    if (fd >= 0)
        close(fd);
    return good;
}

/* LMDB's lock file is mapped and never synced. */
static bool
lock_file_write(const char *dir, struct dice *d)
{
    char junk[8192] = {0};
    uint64_t what = d->fate == DISK_RANDOM ? disk_random(&d->state, 3) : (uint64_t)d->fate;
    if (what == 0)
        return true;
    for (size_t i = 0; what == 2 && i < sizeof(junk); i++)
        junk[i] = (char)disk_random(&d->state, 256);
    return file_write(dir, "lock.mdb", junk, sizeof(junk));
}

bool
disk_rebuild(const struct disk *disk, enum disk_fate fate, uint64_t seed, const char *dir)
{
    static struct disk_file image; /* scratch, reused */
    struct disk_name names[DISK_NAMES];
    struct dice d = dice_new(fate, seed, disk->n_pending);
    memcpy(names, disk->names, sizeof(names));
    for (size_t i = 0; i < disk->n_pending; i++)
        if (is_name(&disk->pending[i]) && is_there(&d))
            names_apply(names, &disk->pending[i]);
    if (!empty_dir(dir))
        return false;
    for (size_t i = 0; i < DISK_NAMES; i++) {
        if (names[i].text[0] == '\0')
            continue;
        image_make(disk, names[i].file, &d, &image);
        if (!file_write(dir, names[i].text, image.bytes, image.n))
            return false;
    }
    return lock_file_write(dir, &d);
}
