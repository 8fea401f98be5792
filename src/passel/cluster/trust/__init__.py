"""Who may join and who is believed to be whom: tokens, certificates, the roster, finding each other."""
