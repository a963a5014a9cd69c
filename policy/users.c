/*
 * users - an immutable table of names and hashes, and the check of a password against it.
 *
 * The table keeps its own copy of the file's text; names and hashes are views into it. An unknown
 * name is checked against a decoy, the hash of the first user (method, cost and salt of the same
 * kind), and then refused whatever came out. Called by relayd/accept; users_file.c has the files.
 */
#include "policy/users.h"

#include "policy/base/mailbox.h"
#include "policy/base/map.h"
#include "policy/base/mem.h"

#include <crypt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define HASH_MAX (CRYPT_OUTPUT_SIZE - 1)

/* What a name is checked against in an empty file; nobody knows a password for it. */
static const char decoy_setting[] = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$";

struct user {
    struct span name;
    char hash[CRYPT_OUTPUT_SIZE];
};

struct users {
    struct user *list;
    size_t n, n_room;
    struct map by_name;
    char *text; /* what the names point into */
    size_t n_text;
};

bool
users_name_valid(struct span name)
{
    if (name.n == 0 || name.n > USERS_NAME_MAX || name.p[0] == '#')
        return false;
    for (size_t i = 0; i < name.n; i++)
        if ((unsigned char)name.p[i] <= 32 || name.p[i] == 127 || name.p[i] == ':')
            return false;
    return mailbox_utf8_valid(name);
}

static enum err_code
hash_check(struct span hash, const char *file, size_t line, struct err *err)
{
    char text[CRYPT_OUTPUT_SIZE];

    if (hash.n == 0 || hash.n > HASH_MAX)
        return err_set(err, ERR_INVAL, "%s:%zu: expected a password hash behind the colon", file,
                       line);
    for (size_t i = 0; i < hash.n; i++)
        if (hash.p[i] <= 32 || hash.p[i] > 126)
            return err_set(err, ERR_INVAL, "%s:%zu: a hash holds no blanks", file, line);
    memcpy(text, hash.p, hash.n);
    text[hash.n] = '\0';
    int verdict = crypt_checksalt(text);
    explicit_bzero(text, sizeof text);
    if (verdict == CRYPT_SALT_OK)
        return ERR_OK;
    return err_set(err, ERR_INVAL,
                   verdict == CRYPT_SALT_METHOD_LEGACY || verdict == CRYPT_SALT_TOO_CHEAP
                       ? "%s:%zu: the hash is of a weak kind, set the password again with "
                         "`relayctl user add'"
                       : "%s:%zu: no password hash, lines are made with `relayctl user add'",
                   file, line);
}

static enum err_code
add_line(struct users *u, struct span line, const char *file, size_t no, struct err *err)
{
    struct span hash = line, name = span_cut(&hash, ':');

    if (name.n == line.n)
        return err_set(err, ERR_INVAL, "%s:%zu: expected name:hash", file, no);
    if (!users_name_valid(name))
        return err_set(err, ERR_INVAL,
                       "%s:%zu: expected a name of 1 to %d characters without blanks", file, no,
                       USERS_NAME_MAX);
    enum err_code code = hash_check(hash, file, no, err);
    if (code != ERR_OK)
        return code;
    if (u->n == USERS_MAX)
        return err_set(err, ERR_LIMIT, "%s:%zu: more than %d users", file, no, USERS_MAX);
    if (u->n == u->n_room) {
        u->n_room = u->n_room == 0 ? 8 : 2 * u->n_room;
        u->list = xrealloc(u->list, u->n_room * sizeof *u->list);
    }
    struct user *user = &u->list[u->n++];
    user->name = name;
    memcpy(user->hash, hash.p, hash.n);
    user->hash[hash.n] = '\0';
    return ERR_OK;
}

/* The list does not move any more: names can be mapped to its elements. */
static enum err_code
index_names(struct users *u, const char *file, struct err *err)
{
    for (size_t i = 0; i < u->n; i++) {
        if (map_get(&u->by_name, u->list[i].name) != NULL)
            return err_set(err, ERR_INVAL, "%s: user %.*s is there twice", file,
                           SPAN_ARG(u->list[i].name));
        map_put(&u->by_name, u->list[i].name, &u->list[i]);
    }
    return ERR_OK;
}

enum err_code
users_parse(struct span text, const char *file, struct users **ret, struct err *err)
{
    struct users *u = xcalloc(1, sizeof *u);
    struct map_seed seed;
    enum err_code code = ERR_OK;
    size_t no = 0;

    if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
        abort();
    map_init(&u->by_name, seed);
    u->n_text = text.n;
    u->text = xmalloc(text.n + 1);
    if (text.n > 0)
        memcpy(u->text, text.p, text.n);
    struct span rest = span_of(u->text, u->n_text);
    while (rest.n > 0 && code == ERR_OK) {
        struct span line = span_cut(&rest, '\n');
        no++;
        if (span_ends(line, SPAN("\r")))
            line.n--;
        if (line.n > 0 && line.p[0] != '#')
            code = add_line(u, line, file, no, err);
    }
    if (code == ERR_OK)
        code = index_names(u, file, err);
    if (code != ERR_OK) {
        users_free(u);
        return code;
    }
    *ret = u;
    return ERR_OK;
}

void
users_free(struct users *u)
{
    if (u == NULL)
        return;
    map_release(&u->by_name);
    if (u->list != NULL)
        explicit_bzero(u->list, u->n_room * sizeof *u->list);
    explicit_bzero(u->text, u->n_text);
    free(u->list);
    free(u->text);
    free(u);
}

size_t
users_count(const struct users *u)
{
    return u->n;
}

bool
users_has(const struct users *u, struct span name)
{
    return map_get(&u->by_name, name) != NULL;
}

/* No early end: where two hashes differ is nobody's business. */
static bool
equal(const char *a, const char *b)
{
    size_t n = strlen(a);
    unsigned char differs = 0;

    if (n != strlen(b))
        return false;
    for (size_t i = 0; i < n; i++)
        differs |= (unsigned char)(a[i] ^ b[i]);
    return differs == 0;
}

bool
users_verify(const struct users *u, struct span name, struct span password)
{
    const struct user *user = map_get(&u->by_name, name);
    const char *hash = user != NULL ? user->hash : u->n > 0 ? u->list[0].hash : decoy_setting;
    bool possible = user != NULL && password.n > 0 && password.n <= USERS_PASSWORD_MAX &&
                    memchr(password.p, '\0', password.n) == NULL;
    struct crypt_data *data = xcalloc(1, sizeof *data);
    char phrase[USERS_PASSWORD_MAX + 1] = "decoy";

    if (possible) {
        memcpy(phrase, password.p, password.n);
        phrase[password.n] = '\0';
    }
    const char *made = crypt_r(phrase, hash, data);
    bool ok = made != NULL && made[0] != '*' && equal(made, hash) && possible;
    explicit_bzero(phrase, sizeof phrase);
    explicit_bzero(data, sizeof *data);
    free(data);
    return ok;
}

enum err_code
users_hash(struct span password, char ret[USERS_HASH_BUF], struct err *err)
{
    char setting[CRYPT_GENSALT_OUTPUT_SIZE], phrase[USERS_PASSWORD_MAX + 1];

    if (password.n == 0 || password.n > USERS_PASSWORD_MAX ||
        memchr(password.p, '\0', password.n) != NULL)
        return err_set(err, ERR_INVAL, "expected a password of 1 to %d octets", USERS_PASSWORD_MAX);
    if (crypt_gensalt_rn("$y$", 0, NULL, 0, setting, sizeof setting) == NULL)
        return err_set(err, ERR_IO, "libcrypt makes no yescrypt salt");
    memcpy(phrase, password.p, password.n);
    phrase[password.n] = '\0';
    struct crypt_data *data = xcalloc(1, sizeof *data);
    const char *made = crypt_r(phrase, setting, data);
    bool ok = made != NULL && made[0] != '*' && strlen(made) < USERS_HASH_BUF;
    if (ok)
        memcpy(ret, made, strlen(made) + 1);
    explicit_bzero(phrase, sizeof phrase);
    explicit_bzero(data, sizeof *data);
    free(data);
    return ok ? ERR_OK : err_set(err, ERR_IO, "libcrypt hashes no password");
}

char *
users_generate(char buf[USERS_GENERATED_MAX])
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    size_t n = 0;

    while (n < 24) {
        unsigned char byte;
        if (getrandom(&byte, 1, 0) != 1)
            abort();
        if (byte < 4 * (sizeof letters - 1)) /* 248 = 4 * 62: none is likelier than another */
            buf[n++] = letters[byte % (sizeof letters - 1)];
    }
    buf[n] = '\0';
    return buf;
}
