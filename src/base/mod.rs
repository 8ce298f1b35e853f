//! Words that every other module uses: time, secrets, named tasks, readiness, duty, parcels, rates. Nothing here does I/O.

pub mod backoff;
pub mod bucket;
pub mod clock;
pub mod duty;
pub mod parcel;
pub mod readiness;
pub mod repeats;
pub mod secret;
pub mod tasks;
