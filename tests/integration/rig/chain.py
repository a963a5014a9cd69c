"""The set-up of the whole project: a home node and an overseas node, with TLS and AUTH between.

    home (cn) ── direct ──▶ MX
        └── hop us, STARTTLS verified, AUTH ──▶ overseas (us) ── direct ──▶ MX
"""


class Chain:
    def __init__(self, world, routes, cn=None, us=None, domain="mydomain.test", kinds=("rsa", "rsa"),
                 hop=None, start=True):
        """routes: the transport map of cn. cn, us: further configuration of each node.

        Mail from `domain` is signed by both, with the selectors cn and us.
        """
        self.domain = domain
        key_cn, key_us = (world.key(domain, s, k) for s, k in zip(("cn", "us"), kinds))
        self.us = world.node("us", start=False, port=587)
        certificate = world.ca.issue("smtp-us.relay.test", self.us.address)
        self.us.add_user("cn", "secret of cn")
        self.us.write_config({
            "tls": {"certificate_file": certificate.cert_file,
                    "private_key_file": certificate.key_file},
            "trusted_clients": [{"users_file": "users"}],
            "dkim": [{"domains": [domain], "key_file": str(key_us.path)}],
            **(us or {})})
        self.cn = world.node("cn", start=False)
        secret = self.cn.file("us.secret", "secret of cn\n")
        self.cn.write_config({
            "local_domains": [domain],
            "hops": {"us": world.hop(self.us, auth=("cn", secret), **(hop or {}))},
            "transport_map": routes,
            "dkim": [{"domains": [domain], "key_file": str(key_cn.path)}],
            **(cn or {})})
        if start:
            self.us.start()
            self.cn.start()

    def trace(self, ident, **fields):
        """The finished attempt of a message at cn."""
        return self.cn.log.wait(event="attempt", msg=ident, **fields)
