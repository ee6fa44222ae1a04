"""Whether a policy or a task of your own keeps the promises of `mereq_min.interfaces`."""
