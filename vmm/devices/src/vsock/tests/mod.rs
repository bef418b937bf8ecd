//! The whole device, without a machine.

mod connect;
mod flow;
mod hostile;
mod rig;
mod shutdown;
