//! Quantiles.

use std::time::Duration;

/// How long something took, again and again.
#[derive(Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// In milliseconds, the time that this part of them (0.5, 0.99) did not exceed.
    pub fn quantile(&self, part: f64) -> f64 {
        let times: Vec<f64> = self.0.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        quantile(times, part)
    }
}

/// The smallest of the values that this part of them does not exceed.
pub fn quantile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (part * values.len() as f64).ceil() as usize;
    values.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

pub fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}
