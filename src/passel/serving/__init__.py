"""`passel serve` put together: each file fills the Protocols of one room; they know everybody."""
