#include "tests/unit/queue/fixture.h"

#include <sys/wait.h>

static char *
in_dir(struct fixture *f, const char *name)
{
    static char path[256];
    snprintf(path, sizeof(path), "%s/%s", f->dir, name);
    return path;
}

static void
a_new_queue_is_private_and_is_found_again(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    chmod(f->dir, 0755);
    fixture_open(f);
    assert_true(f->info.created);
    assert_int_equal(f->info.format, QUEUE_FORMAT);
    assert_int_equal(stat(f->dir, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_int_equal(stat(in_dir(f, "data.mdb"), &st), 0);
    assert_int_equal(st.st_mode & 077, 0);
    uint64_t id = add_one(f, "x@d.test"), lane = queue_lane(f->queue, SPAN("d.test"));
    fixture_reopen(f);
    assert_false(f->info.created);
    assert_string_equal(f->info.node, "cn");
    assert_int_equal(queue_lane(f->queue, SPAN("d.test")), lane);
    struct queue_mail mail = mail_of(f, id);
    assert_int_equal(mail.n_rcpts, 1);
    queue_mail_release(&mail);
}

static void
a_missing_directory_is_made(void **state)
{
    struct fixture *f = *state;
    char path[128];
    struct queue *queue;
    snprintf(path, sizeof(path), "%s/sub", f->dir);
    f->options.path = path;
    OK(queue_open(&f->options, &queue, NULL, err));
    queue_close(queue);
    remove_dir(path);
    snprintf(path, sizeof(path), "%s/no/sub", f->dir);
    FAILS(ERR_NOT_FOUND, queue_open(&f->options, &queue, NULL, err));
}

static void
a_directory_with_other_things_that_is_open_to_others_is_refused(void **state)
{
    struct fixture *f = *state;
    struct queue *queue;
    struct stat st;
    int fd = open(in_dir(f, "notes.txt"), O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    close(fd);
    chmod(f->dir, 0755);
    FAILS(ERR_PERM, queue_open(&f->options, &queue, NULL, err));
    assert_int_equal(stat(f->dir, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0755); /* not ours to change */
    chmod(f->dir, 0700);
    OK(queue_open(&f->options, &queue, NULL, err));
    queue_close(queue);
}

static void
no_descriptor_survives_an_exec(void **state)
{
    struct fixture *f = *state;
    fixture_open(f);
    for (int fd = 3; fd < 256; fd++) {
        char link[64], target[256];
        int flags = fcntl(fd, F_GETFD);
        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, target, sizeof(target) - 1);
        if (flags < 0 || n < 0)
            continue;
        target[n] = '\0';
        if (strstr(target, f->dir) != NULL && (flags & FD_CLOEXEC) == 0)
            fail_msg("%s would survive an exec", target);
    }
}

static void
two_openers_do_not_share_a_queue(void **state)
{
    struct fixture *f = *state;
    struct queue *queue;
    struct queue_options look = f->options;
    look.read_only = true;
    fixture_open(f);
    FAILS(ERR_BUSY, queue_open(&f->options, &queue, NULL, err));
    FAILS(ERR_BUSY, queue_open(&look, &queue, NULL, err));
    add_one(f, "x@d.test"); /* the first is undisturbed */
    fixture_close(f);
    OK(queue_open(&look, &queue, NULL, err));
    queue_close(queue);
}

static void
a_look_creates_nothing_and_reads_what_is_there(void **state)
{
    struct fixture *f = *state;
    struct queue_options look = f->options;
    struct stat st;
    look.read_only = true;
    FAILS(ERR_NOT_FOUND, queue_open(&look, &f->queue, NULL, err));
    assert_int_not_equal(stat(in_dir(f, "data.mdb"), &st), 0);
    fixture_open(f);
    add_one(f, "x@d.test");
    struct queue_batch *batch = begin(f);
    OK(queue_incoming_chunk(batch, queue_id_new(f->queue, T0), 0, &SPAN("half"), 1, err));
    commit(batch);
    fixture_close(f);
    OK(queue_open(&look, &f->queue, &f->info, err));
    OK(queue_reader_new(f->queue, &f->reader, err));
    assert_int_equal(stats_of(f).recipients, 1);
    assert_int_equal(stats_of(f).incoming, 1); /* a look does not sweep */
    assert_sound(f);
}

/* ---------------------------------------------------------------------------- refused files */

static void
a_newer_format_is_refused_and_both_versions_are_named(void **state)
{
    struct fixture *f = *state;
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    unsigned char newer[4] = {QUEUE_FORMAT + 1, 0, 0, 0};
    MDB_val key = {6, "format"}, value = {4, newer};
    struct err err;
    fixture_open(f);
    fixture_close(f);
    assert_int_equal(mdb_env_create(&env), 0);
    mdb_env_set_maxdbs(env, 4);
    assert_int_equal(mdb_env_open(env, f->dir, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, "meta", 0, &dbi), 0);
    assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
    assert_int_equal(queue_open(&f->options, &f->queue, NULL, &err), ERR_VERSION);
    assert_non_null(strstr(err.text, "format 2"));
    assert_non_null(strstr(err.text, "format 1"));
    f->queue = NULL;
}

static void
a_queue_whose_data_vanished_is_not_replaced_by_an_empty_one(void **state)
{
    struct fixture *f = *state;
    struct queue *queue;
    fixture_open(f);
    add_one(f, "x@d.test");
    fixture_close(f);
    assert_int_equal(truncate(in_dir(f, "data.mdb"), 0), 0);
    FAILS(ERR_CORRUPT, queue_open(&f->options, &queue, NULL, err));
    assert_int_equal(unlink(in_dir(f, "data.mdb")), 0);
    FAILS(ERR_CORRUPT, queue_open(&f->options, &queue, NULL, err));
    assert_int_equal(unlink(in_dir(f, "relayd.lock")), 0);
    fixture_open(f); /* now it was said so */
    assert_true(f->info.created);
}

static void
a_crash_while_creating_leaves_a_directory_that_can_be_used(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    char half[4096] = {0}; /* the first pages of a new file, as a power cut may leave them */
    int fd = open(in_dir(f, "data.mdb"), O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    close(fd);
    fd = open(in_dir(f, "data.mdb.new"), O_CREAT | O_WRONLY, 0600);
    assert_int_equal(write(fd, half, sizeof(half)), sizeof(half));
    close(fd);
    fixture_open(f);
    assert_true(f->info.created);
    assert_int_not_equal(stat(in_dir(f, "data.mdb.new"), &st), 0);
    add_one(f, "x@d.test");
    assert_sound(f);
}

static void
a_file_that_is_no_queue_is_refused(void **state)
{
    struct fixture *f = *state;
    struct queue *queue;
    char junk[8192];
    memset(junk, 'x', sizeof(junk));
    int fd = open(in_dir(f, "data.mdb"), O_CREAT | O_WRONLY, 0600);
    assert_int_equal(write(fd, junk, sizeof(junk)), sizeof(junk));
    close(fd);
    FAILS(ERR_CORRUPT, queue_open(&f->options, &queue, NULL, err));
    assert_int_equal(unlink(in_dir(f, "data.mdb")), 0);

    MDB_env *env; /* LMDB, but somebody else's */
    MDB_txn *txn;
    MDB_dbi dbi;
    mdb_env_create(&env);
    mdb_env_set_maxdbs(env, 4);
    assert_int_equal(mdb_env_open(env, f->dir, 0, 0600), 0);
    mdb_txn_begin(env, NULL, 0, &txn);
    assert_int_equal(mdb_dbi_open(txn, "photos", MDB_CREATE, &dbi), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
    FAILS(ERR_CORRUPT, queue_open(&f->options, &queue, NULL, err));
}

static void
a_file_cut_at_any_page_is_refused_and_not_changed(void **state)
{
    struct fixture *f = *state;
    char copy[128];
    struct stat st, after;
    struct queue *queue;
    fixture_open(f);
    for (int i = 0; i < 30; i++)
        add_one(f, "somebody@somewhere.test");
    fixture_close(f);
    snprintf(copy, sizeof(copy), "%s/copy", f->dir);
    assert_int_equal(stat(in_dir(f, "data.mdb"), &st), 0);
    assert_int_equal(rename(in_dir(f, "data.mdb"), copy), 0);
    for (off_t size = 4096; size < st.st_size; size += 4096) {
        char *bytes = xmalloc((size_t)size);
        int fd = open(copy, O_RDONLY);
        assert_int_equal(read(fd, bytes, (size_t)size), size);
        close(fd);
        fd = open(in_dir(f, "data.mdb"), O_CREAT | O_TRUNC | O_WRONLY, 0600);
        assert_int_equal(write(fd, bytes, (size_t)size), size);
        close(fd);
        free(bytes);
        FAILS(ERR_CORRUPT, queue_open(&f->options, &queue, NULL, err));
        assert_int_equal(stat(in_dir(f, "data.mdb"), &after), 0);
        assert_int_equal(after.st_size, size);
    }
    assert_int_equal(rename(copy, in_dir(f, "data.mdb")), 0);
    fixture_open(f);
    assert_int_equal(stats_of(f).messages, 30);
}

static void
a_dead_readers_slot_is_cleared(void **state)
{
    struct fixture *f = *state;
    int ready[2];
    char c;
    fixture_open(f);
    fixture_close(f);
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork(); /* no environment is open here */
    if (pid == 0) {
        MDB_env *env;
        MDB_txn *txn;
        if (mdb_env_create(&env) != 0 || mdb_env_open(env, f->dir, MDB_RDONLY, 0600) != 0 ||
            mdb_txn_begin(env, NULL, MDB_RDONLY, &txn) != 0 || write(ready[1], "r", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    assert_int_equal(read(ready[0], &c, 1), 1);
    fixture_open(f);
    assert_int_equal(queue_readers_check(f->queue), 0); /* it lives */
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(queue_readers_check(f->queue), 1);
    close(ready[0]);
    close(ready[1]);
}

/* -------------------------------------------------------------------------------------- ids */

static void
ids_ascend_whatever_the_clock_does_and_after_a_restart(void **state)
{
    struct fixture *f = *state;
    fixture_open(f);
    uint64_t a = queue_id_new(f->queue, T0), b = queue_id_new(f->queue, T0),
             c = queue_id_new(f->queue, T0 - DAY), d = queue_id_new(f->queue, T0 + 1);
    assert_int_equal(a, (uint64_t)T0 << 16);
    assert_int_equal(b, a + 1);
    assert_int_equal(c, a + 2);
    assert_int_equal(d, (uint64_t)(T0 + 1) << 16);
    assert_int_equal(queue_id_moment(d), T0 + 1);
    uint64_t last = add_one(f, "x@d.test");
    struct queue_change gone = {.id = last,
                                .revision = 1,
                                .verb = QUEUE_FINISH,
                                .result = QUEUE_DELIVERED,
                                .finished_at = T0};
    assert_int_equal(apply_one(f, &gone), ERR_OK);
    fixture_reopen(f);
    assert_true(queue_id_new(f->queue, T0 - DAY) > last); /* though the queue is empty */
    assert_true(queue_id_new(f->queue, -5) > last);
}

static void
an_id_reads_back_from_its_text_in_any_case_and_behind_a_node(void **state)
{
    (void)state;
    static const uint64_t ids[] = {0, 1, 31, 32, (uint64_t)T0 << 16, UINT64_MAX};
    char text[QUEUE_ID_TEXT + 1], node[32];
    uint64_t id;
    for (size_t i = 0; i < N_ELEMENTS(ids); i++) {
        queue_id_format(ids[i], text);
        assert_int_equal(strlen(text), QUEUE_ID_TEXT);
        assert_true(queue_id_parse(span_str(text), &id));
        assert_int_equal(id, ids[i]);
        snprintf(node, sizeof(node), "cn.%s", text);
        for (char *p = node; *p != '\0'; p++)
            *p = ascii_lower(*p);
        assert_true(queue_id_parse(span_str(node), &id));
        assert_int_equal(id, ids[i]);
    }
    assert_string_equal(queue_id_format(UINT64_MAX, text), "FZZZZZZZZZZZZ");
    static const char *const bad[] = {"",
                                      "0",
                                      "000000000000",
                                      "00000000000000",
                                      "G000000000000",
                                      "000000000000U",
                                      "000000-000000",
                                      ".00000000000",
                                      "cn/0000000000000"};
    for (size_t i = 0; i < N_ELEMENTS(bad); i++)
        assert_false(queue_id_parse(span_str(bad[i]), &id));
    assert_false(queue_id_parse(span_of("000000\0000000", 13), &id));
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, fixture_setup_closed, fixture_teardown)

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(a_new_queue_is_private_and_is_found_again),
        TEST(a_missing_directory_is_made),
        TEST(a_directory_with_other_things_that_is_open_to_others_is_refused),
        TEST(no_descriptor_survives_an_exec),
        TEST(two_openers_do_not_share_a_queue),
        TEST(a_look_creates_nothing_and_reads_what_is_there),
        TEST(a_newer_format_is_refused_and_both_versions_are_named),
        TEST(a_queue_whose_data_vanished_is_not_replaced_by_an_empty_one),
        TEST(a_crash_while_creating_leaves_a_directory_that_can_be_used),
        TEST(a_file_that_is_no_queue_is_refused),
        TEST(a_file_cut_at_any_page_is_refused_and_not_changed),
        TEST(a_dead_readers_slot_is_cleared),
        TEST(ids_ascend_whatever_the_clock_does_and_after_a_restart),
        TEST(an_id_reads_back_from_its_text_in_any_case_and_behind_a_node),
    };
    RUN_TESTS(tests);
}
