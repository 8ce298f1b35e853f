//! Words that every other module uses: time, secrets, named tasks, readiness, duty, parcels. Nothing here does I/O.

pub mod bucket;
pub mod clock;
pub mod duty;
pub mod parcel;
pub mod readiness;
pub mod secret;
pub mod tasks;
