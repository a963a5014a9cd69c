/*
 * A data file with damage in it: queue/structure refuses it, or LMDB can walk it, change it and
 * empty it without a crash, and leaves a file that is sound.
 *
 * Input: patches to a small sound file, each of 5 bytes: what, page, offset (2 bytes), value.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "queue/queue.h"
#include "queue/structure.h"
#include "tests/fuzz/check.h"

#define T0 ((msec_t)1700000000000)
#define PAGE_BYTES 4096
#define IMAGE_MAX (256 * PAGE_BYTES)
#define PATCH_BYTES 5
#define PATCHES_MAX 64
#define ROUNDS_MAX 64
#define LARGE_BYTES (QUEUE_CHUNK_BYTES + 100)

static char dir[64], data_file[96];
static char sound[IMAGE_MAX], image[IMAGE_MAX];
static size_t image_bytes;

static struct queue *
open_queue(void)
{
    const struct queue_options options = {
        .path = dir, .node = "cn", .max_bytes = 4 << 20, .map_bytes = 16 << 20};
    struct queue *queue;
    struct err err;
    return queue_open(&options, &queue, NULL, &err) == ERR_OK ? queue : NULL;
}

static void
put_away(void)
{
    char name[512];
    struct dirent *e;
    DIR *d = opendir(dir);
    while (d != NULL && (e = readdir(d)) != NULL) {
        snprintf(name, sizeof name, "%s/%s", dir, e->d_name);
        if (e->d_name[0] != '.')
            unlink(name);
    }
    if (d != NULL)
        closedir(d);
    rmdir(dir);
}

/* ------------------------------------------------------------------------- a small sound file */

static void
add(struct queue *queue, struct queue_batch *batch, size_t bytes, enum queue_state state)
{
    static const char text[LARGE_BYTES];
    const struct span body = span_of(text, bytes);
    struct err err;
    const struct queue_msg msg = {.id = queue_id_new(queue, T0),
                                  .arrived_at = T0,
                                  .size_bytes = bytes,
                                  .body_bytes = bytes,
                                  .sender = SPAN("a@src.test"),
                                  .received = SPAN("Received: from x by y\r\n")};
    struct queue_rcpt rcpts[2] = {{.no = 0, .state = state, .due_at = T0},
                                  {.no = 1, .state = state, .due_at = T0 + 1}};
    for (size_t i = 0; i < 2; i++) {
        rcpts[i].domain = SPAN("d.test");
        rcpts[i].address = SPAN("u@d.test");
    }
    (void)!queue_add(batch, &msg, rcpts, 2, &body, 1, &err);
}

/* Every table has rows, trees have branches, and some pages are free. */
static void
fill(struct queue *queue)
{
    const struct queue_filter fresh = {.states = 1 << QUEUE_FRESH};
    const struct queue_change finish = {
        .verb = QUEUE_FINISH, .result = QUEUE_DELIVERED, .finished_at = T0};
    struct queue_touched touched[40];
    struct queue_key after = {0, 0};
    struct queue_batch *batch;
    struct err err;
    uint64_t txn;
    size_t n;
    bool more;
    CHECK(queue_begin(queue, &batch, &err) == ERR_OK);
    for (size_t i = 0; i < 24; i++)
        add(queue, batch, 90 * i, i % 3 == 0 ? QUEUE_FRESH : QUEUE_SCHEDULED);
    add(queue, batch, LARGE_BYTES, QUEUE_HELD);
    add(queue, batch, LARGE_BYTES, QUEUE_FRESH);
    CHECK(queue_state_put(batch, SPAN("hold:x.test"), SPAN("why"), &err) == ERR_OK);
    CHECK(queue_commit(batch, &txn, &err) == ERR_OK);
    CHECK(queue_begin(queue, &batch, &err) == ERR_OK);
    CHECK(queue_apply_filter(batch, &fresh, &finish, &after, 40, touched, &n, &more, &err) ==
          ERR_OK);
    CHECK(queue_incoming_chunk(batch, queue_id_new(queue, T0), 0, &SPAN("Subject: half of it\r\n"),
                               1, &err) == ERR_OK);
    CHECK(queue_commit(batch, &txn, &err) == ERR_OK);
}

static void
make_sound_file(void)
{
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(dir, sizeof dir, "%s/relayd-fuzz-XXXXXX", base);
    CHECK(mkdtemp(dir) != NULL);
    atexit(put_away);
    snprintf(data_file, sizeof data_file, "%s/data.mdb", dir);
    struct queue *queue = open_queue();
    CHECK(queue != NULL);
    fill(queue);
    queue_close(queue);
    int fd = open(data_file, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : pread(fd, sound, sizeof sound, 0);
    CHECK(n > 20 * PAGE_BYTES && n < IMAGE_MAX && n % PAGE_BYTES == 0);
    close(fd);
    image_bytes = (size_t)n;
}

/* ------------------------------------------------------------------------------------- damage */

static void
patch(const uint8_t bytes[PATCH_BYTES])
{
    size_t pages = image_bytes / PAGE_BYTES;
    char *page = image + bytes[1] % pages * PAGE_BYTES;
    const char *other = image + bytes[4] % pages * PAGE_BYTES;
    size_t at = (bytes[2] | (size_t)bytes[3] << 8) % PAGE_BYTES;
    uint16_t word;
    switch (bytes[0] % 6) {
    case 0:
        page[at] = (char)bytes[4];
        break;
    case 1:
        page[at] ^= (char)(1 << bytes[4] % 8);
        break;
    case 2: /* a number of a head or a node */
        at = at / 2 * 2;
        memcpy(&word, page + at, sizeof word);
        word = (uint16_t)(word + (int8_t)bytes[4]);
        memcpy(page + at, &word, sizeof word);
        break;
    case 3: /* from some offset on another page's bytes: a torn or misdirected write */
        memmove(page + at, other + at, PAGE_BYTES - at);
        break;
    case 4:
        memset(page + at, 0, PAGE_BYTES - at);
        break;
    default: /* and its number, where it would be believed */
        memmove(page, other, PAGE_BYTES);
        word = (uint16_t)(bytes[1] % pages);
        memcpy(page, &word, sizeof word);
        break;
    }
}

static enum err_code
check(void)
{
    struct err err;
    int fd = open(data_file, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    enum err_code code = queue_structure_check(fd, dir, &err);
    close(fd);
    return code;
}

static void
write_image(void)
{
    int fd = open(data_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && write(fd, image, image_bytes) == (ssize_t)image_bytes);
    close(fd);
}

/* -------------------------------------------------------------- what the daemon would do with it
 */

static void
read_mail(struct queue_reader *reader, uint64_t id)
{
    char buf[QUEUE_CHUNK_BYTES];
    struct queue_mail mail = {.txn_id = 0};
    struct err err;
    uint64_t offset = 0;
    size_t n = 0;
    if (queue_read_mail(reader, id, &mail, &err) != ERR_OK)
        return;
    queue_mail_release(&mail);
    while (queue_read_body(reader, id, offset, buf, sizeof buf, &n, &err) == ERR_OK && n > 0)
        offset += n;
}

static void
read_all(struct queue *queue)
{
    struct queue_filter all = {.id = 0};
    struct queue_key after = {0, 0};
    struct queue_past_key past = {0, 0, 0};
    struct queue_page page = {.more = true};
    struct queue_history history = {.more = true};
    struct queue_verify_result result = {.finished = false};
    struct queue_reader *reader;
    struct err err;
    if (queue_reader_new(queue, &reader, &err) != ERR_OK)
        return;
    for (size_t i = 0; i < ROUNDS_MAX && page.more; i++) {
        if (queue_list(reader, &all, &after, 100, &page, &err) != ERR_OK)
            break;
        for (size_t r = 0; r < page.n_rows; r++)
            read_mail(reader, page.rows[r].rcpt.id);
        queue_page_release(&page);
    }
    for (size_t i = 0; i < ROUNDS_MAX && history.more; i++) {
        if (queue_read_history(reader, 0, &past, 100, &history, &err) != ERR_OK)
            break;
        queue_history_release(&history);
    }
    struct queue_verify *verify = queue_verify_new();
    while (!result.finished)
        if (queue_verify_step(verify, reader, &result, &err) != ERR_OK)
            break;
    queue_verify_free(verify);
    queue_reader_free(reader);
}

/* New mail in, all mail out: pages of every tree are changed, freed and used again. */
static void
change_all(struct queue *queue, size_t round)
{
    const struct queue_filter all = {.id = 0};
    const struct queue_change change = {.verb = round == 0 ? QUEUE_RELEASE : QUEUE_FINISH,
                                        .due_at = T0,
                                        .result = QUEUE_DELIVERED,
                                        .finished_at = T0};
    struct queue_touched touched[100];
    struct queue_key after = {0, 0};
    struct queue_batch *batch;
    struct err err;
    uint64_t txn;
    size_t n = 0;
    bool more;
    if (queue_begin(queue, &batch, &err) != ERR_OK)
        return;
    add(queue, batch, 100, QUEUE_SCHEDULED);
    add(queue, batch, LARGE_BYTES, QUEUE_FRESH);
    if (!queue_batch_dead(batch))
        (void)!queue_apply_filter(batch, &all, &change, &after, 100, touched, &n, &more, &err);
    if (!queue_batch_dead(batch) && round > 0)
        (void)!queue_history_trim(batch, T0 + 1, 0, 100, NULL, &err);
    if (queue_batch_dead(batch))
        queue_abort(batch);
    else
        (void)!queue_commit(batch, &txn, &err);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    if (image_bytes == 0)
        make_sound_file();
    memcpy(image, sound, image_bytes);
    for (size_t i = 0; i < PATCHES_MAX && n >= PATCH_BYTES; i++) {
        patch(bytes);
        bytes += PATCH_BYTES;
        n -= PATCH_BYTES;
    }
    write_image();
    struct queue *queue = open_queue(); /* looks at the structure first */
    if (queue == NULL)
        return 0;
    read_all(queue);
    for (size_t round = 0; round < 3; round++)
        change_all(queue, round);
    queue_close(queue);
    CHECK(check() == ERR_OK || fuzz_no_memory());
    return 0;
}
