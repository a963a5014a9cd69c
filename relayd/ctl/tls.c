/*
 * `tls self-signed`: a certificate and key for a node, and the pin for the other side.
 */
#include "relayd/net/tls.h"

#include <stdio.h>

#include "policy/base/mem.h"
#include "relayd/ctl/ctl.h"
#include "relayd/ctl/files.h"

#define DAYS_DEFAULT 3650 /* pinned, so its age says nothing */

static int
write_both(const char *cert_file, const struct strbuf *cert, const char *key_file,
           const struct strbuf *key)
{
    struct err err;
    enum err_code code = ctl_file_create(key_file, 0600, strbuf_span(key), &err);
    if (code == ERR_OK) {
        code = ctl_file_create(cert_file, 0644, strbuf_span(cert), &err);
        if (code != ERR_OK)
            ctl_file_discard(key_file);
    }
    return code == ERR_OK ? 0 : ctl_fail(&err);
}

static int
print_result(const struct ctl *ctl, const char *cert_file, const char *key_file,
             const struct tls_pin *pin)
{
    char cert_text[TLS_PIN_TEXT_BYTES], spki_text[TLS_PIN_TEXT_BYTES];
    struct tls_pin cert, spki;
    struct err err;
    tls_pin_format(pin, cert_text);
    enum err_code code = tls_pins_of_file(cert_file, &cert, &spki, &err);
    if (code != ERR_OK)
        return ctl_fail(&err);
    tls_pin_format(&spki, spki_text);
    if (ctl->json) {
        cJSON *json = cJSON_CreateObject();
        cJSON_AddStringToObject(json, "certificate_file", cert_file);
        cJSON_AddStringToObject(json, "private_key_file", key_file);
        cJSON_AddStringToObject(json, "fingerprint", cert_text);
        cJSON_AddStringToObject(json, "spki", spki_text);
        int printed = ctl_print_json(json);
        cJSON_Delete(json);
        return printed;
    }
    printf("On this node:\n"
           "tls: {certificate_file: %s, private_key_file: %s}\n\n"
           "On the other side, in hops.NAME (or as client_certificate in trusted_clients):\n"
           "fingerprint: %s\n\n"
           "The pin of the key alone, which outlives the certificate:\n"
           "fingerprint: %s\n",
           cert_file, key_file, cert_text, spki_text);
    return ctl_finish();
}

static int
self_signed_run(struct ctl *ctl)
{
    struct strbuf cert = STRBUF_INIT, key = STRBUF_INIT;
    struct tls_pin pin;
    struct err err;
    const char *name = ctl_option(ctl, "--name");
    const char *cert_file = ctl_option(ctl, "--cert"), *key_file = ctl_option(ctl, "--key");
    if (name == NULL)
        ctl_usage(ctl, "--name HOST is missing");
    cert_file = cert_file == NULL ? "fullchain.pem" : cert_file;
    key_file = key_file == NULL ? "privkey.pem" : key_file;
    int days = (int)ctl_option_number(ctl, "--days", 1, 36500, DAYS_DEFAULT);
    if (tls_self_signed(name, days, &cert, &key, &pin, &err) != ERR_OK)
        return ctl_fail(&err);
    int code = write_both(cert_file, &cert, key_file, &key);
    strbuf_release(&cert);
    tls_wipe(&key);
    return code != 0 ? code : print_result(ctl, cert_file, key_file, &pin);
}

static const struct ctl_option self_signed_options[] = {
    {"--name", "HOST", "the host name or IP address that the others connect to"},
    {"--cert", "FILE", "where the certificate goes (default fullchain.pem)"},
    {"--key", "FILE", "where the key goes (default privkey.pem)"},
    {"--days", "N", "how long it is valid (default 3650)"},
    {0},
};

const struct ctl_verb ctl_tls_verbs[] = {
    {"tls self-signed", "", 0, 0, "make a certificate and key, and print the pin",
     "Files that are there already are never overwritten. Needs no daemon.", self_signed_options,
     self_signed_run},
    {0},
};
