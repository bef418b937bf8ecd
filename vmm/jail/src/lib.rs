//! Confinement of the processes that a guest may come to own.
