/* The files that options name: secrets with their permissions, others only for being there. */
#include "policy/config_build.h"

#include <stdlib.h>

#include "policy/srs.h"

#define PLAIN_FILE_MAX ((size_t)16 << 20)
#define MODE_OTHERS 0006u /* read or write */

static void
report(struct builder *b, const struct pending_file *p, enum err_code code, const struct err *err)
{
    const char *user = b->source->user != NULL ? b->source->user : b->config->user;
    if (code == ERR_PERM)
        CONFIG_FAULT(b, p->node->mark, p->path,
                     "%s: user %s cannot read it (%s), make it readable: chown %s %s", p->file,
                     user, err->text, user, p->file);
    else
        CONFIG_FAULT(b, p->node->mark, p->path, "%s: %s", p->file, err->text);
}

static void
read_secret(struct builder *b, const struct pending_file *p)
{
    struct config_blob blob;
    struct err err;
    enum err_code code = b->source->read(b->source->ctx, p->file, CONFIG_SECRET_MAX, &blob, &err);
    if (code != ERR_OK) {
        report(b, p, code, &err);
        return;
    }
    if ((blob.mode & MODE_OTHERS) != 0)
        CONFIG_FAULT(b, p->node->mark, p->path,
                     "%s: others can %s it (mode %04o), take that away: chmod o= %s", p->file,
                     (blob.mode & 0004) != 0 ? "read" : "write", blob.mode, p->file);
    else if (blob.n == 0 && strcmp(config_schema_leaf(p->option), "users_file") != 0)
        CONFIG_FAULT(b, p->node->mark, p->path, "%s: is empty", p->file);
    else
        p->secret->bytes = span_of(arena_strndup(b->arena, blob.bytes, blob.n), blob.n);
    explicit_bzero(blob.bytes, blob.n);
    free(blob.bytes);
}

static void
read_plain(struct builder *b, const struct pending_file *p)
{
    struct config_blob blob;
    struct err err;
    enum err_code code = b->source->read(b->source->ctx, p->file, PLAIN_FILE_MAX, &blob, &err);
    if (code != ERR_OK) {
        report(b, p, code, &err);
        return;
    }
    if (p->file == b->config->classify.rules_file)
        b->config->classify.rules_bytes =
            span_of(arena_strndup(b->arena, blob.bytes, blob.n), blob.n);
    free(blob.bytes);
}

/* The one line of a file that holds a password or token; reports what is none. */
static struct span
one_line(struct builder *b, const struct config_secret *secret, const struct config_node *node,
         const char *path)
{
    struct span rest = secret->bytes;
    struct span line = span_cut(&rest, '\n');
    if (line.n > 0 && line.p[line.n - 1] == '\r')
        line.n--;
    bool fine = line.n > 0 && line.n <= 512 && span_trim(rest).n == 0;
    for (size_t i = 0; i < line.n; i++)
        fine = fine && (unsigned char)line.p[i] >= 0x20 && line.p[i] != 0x7f;
    if (fine)
        return line;
    CONFIG_FAULT(b, node->mark, path, "%s: holds no single line of 1 to 512 characters",
                 secret->path);
    return SPAN_NONE;
}

/* The secrets of SRS, one a line. A line that is no secret is told by its number, never shown. */
static void
split_secrets(struct builder *b, struct config_srs *srs, const struct pending_file *p)
{
    struct span rest = srs->secret_file.bytes;
    size_t n_lines = 1, line_no = 0, n_short = 0;

    for (size_t i = 0; i < rest.n; i++)
        n_lines += rest.p[i] == '\n';
    srs->secrets = arena_alloc(b->arena, n_lines * sizeof(*srs->secrets));
    while (rest.n > 0) {
        struct span line = span_trim(span_cut(&rest, '\n'));
        line_no++;
        if (line.n >= SRS_SECRET_MIN) {
            srs->secrets[srs->n_secrets++] = line;
        } else if (line.n > 0 && n_short++ == 0) {
            CONFIG_FAULT(b, p->node->mark, p->path,
                         "%s: line %zu has %zu characters, expected at least %d: "
                         "openssl rand -base64 32 makes a good one",
                         p->file, line_no, line.n, SRS_SECRET_MIN);
        }
    }
    if (srs->n_secrets + n_short == 0)
        CONFIG_FAULT(b, p->node->mark, p->path,
                     "%s: holds no secret, expected one a line: openssl rand -base64 32 makes one",
                     p->file);
    if (srs->n_secrets > SRS_SECRETS_MAX)
        CONFIG_FAULT(b, p->node->mark, p->path, "%s: holds %zu secrets, expected at most %d",
                     p->file, srs->n_secrets, SRS_SECRETS_MAX);
}

/* Passwords, tokens: only of secrets that were read. */
static void
interpret(struct builder *b, const struct pending_file *p)
{
    struct config *config = b->config;
    if (p->secret == NULL || p->secret->bytes.p == NULL)
        return;
    for (size_t i = 0; i < config->n_hops; i++)
        if (p->secret == &config->hops[i].password_file)
            config->hops[i].password = one_line(b, p->secret, p->node, p->path);
    if (p->secret == &config->http.token_file)
        config->http.token = one_line(b, p->secret, p->node, p->path);
    if (p->secret == &config->srs.secret_file)
        split_secrets(b, &config->srs, p);
}

void
config_read_files(struct builder *b)
{
    if ((b->flags & CONFIG_LOAD_OUTLINE) != 0)
        return;
    for (const struct pending_file *p = b->pending; p != NULL; p = p->next) {
        if (p->secret != NULL)
            read_secret(b, p);
        else
            read_plain(b, p);
        interpret(b, p);
    }
}
