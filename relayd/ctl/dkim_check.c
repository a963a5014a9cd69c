/*
 * `dkim check`: the public keys in DNS against our private ones. All questions are asked at once;
 * a small event loop runs until the last is answered.
 */
#include "relayd/ctl/dkim_check.h"

#include <stdio.h>
#include <stdlib.h>

#include "policy/base/domain.h"
#include "policy/base/mem.h"
#include "policy/config.h"
#include "policy/dkim.h"
#include "relayd/ctl/ctl.h"
#include "relayd/ctl/files.h"
#include "relayd/net/dns.h"
#include "relayd/net/loop.h"

#define CHECKS_MAX 1000
#define KEY_FILE_MAX ((size_t)64 << 10)

/* One name to look up. */
struct check {
    struct checks *all;
    char *domain, *selector, *file;
    struct strbuf name; /* selector._domainkey.domain */
    struct dkim_key *key;
    bool ok, later; /* later: DNS did not answer */
    char text[200];
};

struct checks {
    struct check *rows;
    size_t n, n_waiting;
};

static void
checks_release(struct checks *all)
{
    for (size_t i = 0; i < all->n; i++) {
        free(all->rows[i].domain);
        free(all->rows[i].selector);
        free(all->rows[i].file);
        strbuf_release(&all->rows[i].name);
        dkim_key_free(all->rows[i].key);
    }
    free(all->rows);
}

/* ---- what is to be checked ---- */

static bool
known(const struct checks *all, const char *domain, const char *selector)
{
    for (size_t i = 0; i < all->n; i++)
        if (strcmp(all->rows[i].domain, domain) == 0 &&
            strcmp(all->rows[i].selector, selector) == 0)
            return true;
    return false;
}

static enum err_code
add(struct checks *all, const char *domain, const char *selector, const char *file, struct span pem,
    struct err *err)
{
    struct dkim_key *key;
    if (known(all, domain, selector) || all->n == CHECKS_MAX)
        return ERR_OK;
    enum err_code code = dkim_key_parse(pem, &key, err);
    if (code != ERR_OK) {
        err_prefix(err, "%s", file);
        return code;
    }
    struct check *check = &all->rows[all->n++];
    *check = (struct check){.all = all,
                            .domain = xstrdup(domain),
                            .selector = xstrdup(selector),
                            .file = xstrdup(file),
                            .key = key};
    dkim_record_name(span_str(domain), span_str(selector), &check->name);
    return ERR_OK;
}

static enum err_code
add_entry(struct checks *all, const struct config_dkim *entry, const char *domain,
          const char *selector, struct err *err)
{
    enum err_code code = ERR_OK;
    if (selector != NULL && strcmp(selector, entry->selector) != 0)
        return ERR_OK;
    size_t n = entry->domain[0] != '\0' ? 1 : entry->n_domains;
    for (size_t i = 0; i < n && code == ERR_OK; i++) {
        const char *d = entry->domain[0] != '\0' ? entry->domain : entry->domains[i].name;
        if (domain == NULL || strcmp(domain, d) == 0)
            code = add(all, d, entry->selector, entry->key.path, entry->key.bytes, err);
    }
    return code;
}

/* ---- asking ---- */

static void
judge(struct check *check, const struct dns_answer *answer)
{
    struct err err;
    char note[160] = "";
    if (answer->status != DNS_OK) {
        check->later = dns_status_temporary(answer->status);
        snprintf(check->text, sizeof(check->text), "no record: %s", answer->text);
        return;
    }
    for (size_t i = 0; i < answer->n_records && !check->ok; i++) {
        check->ok = dkim_record_check(answer->records[i].data, check->key, note, &err) == ERR_OK;
        if (!check->ok)
            snprintf(check->text, sizeof(check->text), "%.199s", err.text);
    }
    /* RFC 6376 section 3.6.2.2: with several records the result is undefined. */
    if (check->ok && answer->n_records > 1) {
        check->ok = false;
        snprintf(check->text, sizeof(check->text),
                 "%zu TXT records at this name; verifiers may take the wrong one",
                 answer->n_records);
    } else if (check->ok) {
        snprintf(check->text, sizeof(check->text), "%s", note[0] == '\0' ? "matches" : note);
    }
}

static void
on_answer(void *arg, const struct dns_answer *answer)
{
    struct check *check = arg;
    judge(check, answer);
    check->all->n_waiting--;
}

static int
ask_all(struct checks *all, const struct config *config)
{
    struct net_addr servers[DNS_SERVERS_MAX];
    struct dns_config dns_config = {.servers = servers};
    struct dns *dns;
    struct err err;
    for (size_t i = 0; config != NULL && i < config->resolver.n_servers && i < DNS_SERVERS_MAX; i++)
        servers[dns_config.n_servers++] =
            (struct net_addr){config->resolver.servers[i].ip, config->resolver.servers[i].port};
    if (config != NULL)
        dns_config.timeout_ms = config->resolver.timeout_ms;
    struct loop *loop = loop_new();
    enum err_code code = dns_new(loop, &dns_config, &dns, &err);
    if (code == ERR_OK) {
        all->n_waiting = all->n;
        for (size_t i = 0; i < all->n; i++)
            dns_query(dns, all->rows[i].name.p, DNS_TXT, on_answer, &all->rows[i]);
        while (all->n_waiting > 0)
            loop_run_once(loop, SECOND);
        dns_free(dns);
    }
    loop_free(loop);
    return code == ERR_OK ? 0 : ctl_fail(&err);
}

/* ---- telling ---- */

static int
report(const struct ctl *ctl, const struct checks *all)
{
    static const char *const titles[] = {"name", "key", "", "result"};
    struct ctl_table table;
    cJSON *list = cJSON_CreateArray();
    bool failed = false, later = true;
    ctl_table_init(&table, titles, N_ELEMENTS(titles));
    for (size_t i = 0; i < all->n; i++) {
        const struct check *check = &all->rows[i];
        cJSON *row = cJSON_CreateObject();
        cJSON_AddStringToObject(row, "domain", check->domain);
        cJSON_AddStringToObject(row, "selector", check->selector);
        cJSON_AddStringToObject(row, "name", check->name.p);
        cJSON_AddStringToObject(row, "key_file", check->file);
        cJSON_AddBoolToObject(row, "ok", check->ok);
        cJSON_AddStringToObject(row, "text", check->text);
        cJSON_AddItemToArray(list, row);
        ctl_table_add(&table, check->name.p);
        ctl_table_printf(&table, "%s-%u", dkim_key_type_name(dkim_key_type(check->key)),
                         dkim_key_bits(check->key));
        ctl_table_add_color(&table, check->ok ? CTL_GOOD : CTL_BAD, check->ok ? "ok" : "BAD");
        ctl_table_add(&table, check->text);
        failed = failed || !check->ok;
        later = later && (check->ok || check->later);
    }
    int code = 0;
    if (ctl->json)
        code = ctl_print_json(list);
    cJSON_Delete(list);
    if (!ctl->json) {
        ctl_table_print(ctl, &table);
        code = ctl_finish();
    } else {
        ctl_table_release(&table);
    }
    if (!failed)
        return code;
    return later ? EX_TEMPFAIL : CTL_REFUSED;
}

static enum err_code
collect(struct ctl *ctl, const char *key_file, const struct config *config, struct checks *all,
        struct err *err)
{
    CLEANUP(dkim_wipe) struct strbuf pem = STRBUF_INIT;
    char domain[DOMAIN_BUF], label[DOMAIN_BUF];
    const char *given = ctl_option(ctl, "--domain"), *selector = ctl_option(ctl, "--selector");
    if (given != NULL && domain_normalise(span_str(given), domain, err) != ERR_OK)
        ctl_usage(ctl, "--domain: %s", err->text);
    if (selector != NULL) {
        if (dkim_selector_normalise(span_str(selector), label, err) != ERR_OK)
            ctl_usage(ctl, "--selector: %s", err->text);
        selector = label;
    }
    if (key_file != NULL) {
        enum err_code code = ctl_file_read(key_file, KEY_FILE_MAX, &pem, err);
        return code != ERR_OK ? code : add(all, domain, selector, key_file, strbuf_span(&pem), err);
    }
    for (size_t i = 0; i < config->n_dkim; i++) {
        enum err_code code =
            add_entry(all, &config->dkim[i], given == NULL ? NULL : domain, selector, err);
        if (code != ERR_OK)
            return code;
    }
    return all->n > 0 ? ERR_OK
                      : err_set(err, ERR_NOT_FOUND, "%s has no such DKIM key", config->file);
}

int
ctl_dkim_check_run(struct ctl *ctl)
{
    CLEANUP(checks_release) struct checks all = {.rows = xcalloc(CHECKS_MAX, sizeof(struct check))};
    struct config *config = NULL;
    struct err err;
    int code = 0;
    const char *key_file = ctl_option(ctl, "--key");
    if (key_file != NULL &&
        (ctl_option(ctl, "--domain") == NULL || ctl_option(ctl, "--selector") == NULL))
        ctl_usage(ctl, "--key needs --domain and --selector");
    if (key_file == NULL || ctl->config_file != NULL) {
        config = ctl_config(ctl, key_file != NULL, &code);
        if (config == NULL)
            return code;
    }
    if (collect(ctl, key_file, config, &all, &err) != ERR_OK)
        code = ctl_fail(&err);
    if (code == 0)
        code = ask_all(&all, config);
    config_free(config);
    return code != 0 ? code : report(ctl, &all);
}
