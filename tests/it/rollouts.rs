//! Rollouts on a real API server: who may hurry or hold them, what becomes of one that fails, and that a controller may
//! die at each of its writes. There are no nodes; the tests play the kubelet.

mod beside;
mod causes;
mod held;
mod kills;
mod orders;
pub(crate) mod outcome;
mod pins;
pub(crate) mod verify;
mod verify_kills;
