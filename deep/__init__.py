"""Neural learners and simulator tasks behind the interfaces of `mereq_min` (needs the extra `deep`)."""
