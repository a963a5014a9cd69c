/*
 * `dkim keygen`: a key and its DNS record. `dkim check` is in dkim_check.c.
 */
#include "policy/dkim.h"

#include <stdio.h>
#include <stdlib.h>

#include "policy/base/domain.h"
#include "policy/base/mem.h"
#include "policy/config.h"
#include "policy/config_load.h"
#include "relayd/ctl/ctl.h"
#include "relayd/ctl/dkim_check.h"
#include "relayd/ctl/files.h"

static void
free_key(struct dkim_key **key)
{
    dkim_key_free(*key);
}

/* --selector, or the node's name from the configuration, which is what the daemon signs with. */
static char *
selector_get(const struct ctl *ctl)
{
    CLEANUP(config_problems_release) struct config_problems problems = {0};
    struct config *config = NULL;
    const char *given = ctl_option(ctl, "--selector");
    if (given != NULL)
        return xstrdup(given);
    if (config_load(ctl_config_file(ctl), NULL, CONFIG_LOAD_OUTLINE, &config, &problems) != ERR_OK)
        ctl_usage(ctl,
                  "--selector S is missing (and %s, whose node.name is the default, cannot "
                  "be read)",
                  ctl_config_file(ctl));
    char *selector = xstrdup(config->node.name);
    config_free(config);
    return selector;
}

static int
print_key(const struct ctl *ctl, const char *file, struct span domain, struct span selector,
          const struct dkim_key *key)
{
    CLEANUP(strbuf_release)
    struct strbuf name = STRBUF_INIT, value = STRBUF_INIT, line = STRBUF_INIT;
    dkim_record_name(domain, selector, &name);
    dkim_record_value(key, &value);
    dkim_record_zone_line(domain, selector, key, &line);
    if (!ctl->json) {
        printf("%s\n\n%s%s\n", file, line.p, span_ends(strbuf_span(&line), SPAN("\n")) ? "" : "\n");
        printf("In the configuration: dkim: [{domains: [%.*s], key_file: %s, selector: %.*s}]\n"
               "The file belongs to you; the daemon's user must be able to read it:\n"
               "    chown relayd %s\n",
               SPAN_ARG(domain), file, SPAN_ARG(selector), file);
        return ctl_finish();
    }
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "key_file", file);
    cJSON_AddStringToObject(json, "domain", domain.p);
    cJSON_AddStringToObject(json, "selector", selector.p);
    cJSON_AddStringToObject(json, "type", dkim_key_type_name(dkim_key_type(key)));
    cJSON_AddNumberToObject(json, "bits", dkim_key_bits(key));
    cJSON_AddStringToObject(json, "name", name.p);
    cJSON_AddStringToObject(json, "value", value.p);
    cJSON_AddStringToObject(json, "zone", line.p);
    int code = ctl_print_json(json);
    cJSON_Delete(json);
    return code;
}

static int
keygen_run(struct ctl *ctl)
{
    CLEANUP(dkim_wipe) struct strbuf pem = STRBUF_INIT;
    CLEANUP(free_key) struct dkim_key *key = NULL;
    CLEANUP(freep) char *selector = NULL, *file = NULL;
    char domain[DOMAIN_BUF], label[DOMAIN_BUF];
    struct err err;
    enum dkim_key_type type = DKIM_KEY_RSA;
    const char *given = ctl_option(ctl, "--domain"), *type_name = ctl_option(ctl, "--type");
    const char *out = ctl_option(ctl, "--out");
    if (given == NULL)
        ctl_usage(ctl, "--domain D is missing");
    if (domain_normalise(span_str(given), domain, &err) != ERR_OK)
        ctl_usage(ctl, "--domain: %s", err.text);
    if (type_name != NULL && !dkim_key_type_parse(span_str(type_name), &type))
        ctl_usage(ctl, "--type: expected rsa or ed25519");
    unsigned bits =
        (unsigned)ctl_option_number(ctl, "--bits", DKIM_RSA_BITS_MIN, DKIM_RSA_BITS_MAX, 0);
    if (bits != 0 && type != DKIM_KEY_RSA)
        ctl_usage(ctl, "--bits is for RSA keys");
    selector = selector_get(ctl);
    if (dkim_selector_normalise(span_str(selector), label, &err) != ERR_OK)
        ctl_usage(ctl, "--selector: %s", err.text);
    file = out == NULL ? xasprintf("%s.pem", domain) : xstrdup(out);
    if (dkim_keygen(type, bits, &pem, &err) != ERR_OK ||
        dkim_key_parse(strbuf_span(&pem), &key, &err) != ERR_OK ||
        ctl_file_create(file, 0600, strbuf_span(&pem), &err) != ERR_OK)
        return ctl_fail(&err);
    return print_key(ctl, file, span_str(domain), span_str(label), key);
}

static const struct ctl_option keygen_options[] = {
    {"--domain", "D", "the signing domain, d="},
    {"--selector", "S", "the selector, s= (default: node.name of the configuration)"},
    {"--type", "rsa|ed25519", "default rsa"},
    {"--bits", "N", "of an RSA key (default 2048)"},
    {"--out", "FILE", "where the key goes (default D.pem); never overwritten, mode 0600"},
    {0},
};
static const struct ctl_option check_options[] = {
    {"--domain", "D", "only this signing domain"},
    {"--selector", "S", "only this selector"},
    {"--key", "FILE", "check this key, with --domain and --selector; needs no configuration"},
    {0},
};

const struct ctl_verb ctl_dkim_verbs[] = {
    {"dkim keygen", "", 0, 0, "make a signing key and print its DNS record",
     "Needs no daemon. The record is printed as a line for a zone file, in strings of at most\n"
     "255 octets.",
     keygen_options, keygen_run},
    {"dkim check", "", 0, 0, "compare the keys with what DNS publishes",
     "Looks up the TXT record of every key in the configuration. Needs no daemon.", check_options,
     ctl_dkim_check_run},
    {0},
};
