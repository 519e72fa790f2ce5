//! The text format that Prometheus reads.
//!
//! Only this file knows the library. Must not know what a figure means. Invariant: every metric has a help text, and each
//! set of labels appears once.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// The `Content-Type` of the page.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// The labels of one sample.
pub(super) type Labels = Vec<(&'static str, String)>;

/// A page of metrics, in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Page(Vec<Metric>);

#[derive(Debug)]
struct Metric {
    name: &'static str,
    help: &'static str,
    samples: Samples,
}

#[derive(Debug)]
enum Samples {
    Counters(Vec<(Labels, f64)>),
    Gauges(Vec<(Labels, f64)>),
    Histograms(Vec<(Labels, Distribution)>),
}

/// How observations are distributed.
#[derive(Debug, Clone)]
pub(super) struct Distribution {
    pub(super) sum: f64,
    /// The upper bound of each bucket, and how many observations only it holds; the last bound is infinite.
    pub(super) buckets: Vec<(f64, u64)>,
}

impl Page {
    /// A counter without labels; `name` without `_total`.
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.counters(name, help, vec![(Labels::new(), value)]);
    }

    /// A counter with labels; `name` without `_total`.
    pub(super) fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: Vec<(Labels, u64)>,
    ) {
        let samples = samples.into_iter();
        let samples = samples.map(|(labels, value)| (labels, number(value)));
        self.add(name, help, Samples::Counters(samples.collect()));
    }

    /// A counter of a fraction, such as seconds; `name` without `_total`.
    pub(super) fn counter_of_fractions(
        &mut self,
        name: &'static str,
        help: &'static str,
        value: f64,
    ) {
        self.add(name, help, Samples::Counters(vec![(Labels::new(), value)]));
    }

    /// A value that goes up and down.
    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.gauges(name, help, vec![(Labels::new(), value)]);
    }

    /// Values that go up and down, with labels; none where there are no samples.
    pub(super) fn gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: Vec<(Labels, f64)>,
    ) {
        self.add(name, help, Samples::Gauges(samples));
    }

    /// Distributions, with labels.
    pub(super) fn histograms(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: Vec<(Labels, Distribution)>,
    ) {
        self.add(name, help, Samples::Histograms(samples));
    }

    fn add(&mut self, name: &'static str, help: &'static str, samples: Samples) {
        let is_empty = match &samples {
            Samples::Counters(samples) | Samples::Gauges(samples) => samples.is_empty(),
            Samples::Histograms(samples) => samples.is_empty(),
        };
        if !is_empty {
            self.0.push(Metric {
                name,
                help,
                samples,
            });
        }
    }

    /// The page as it is sent.
    pub(super) fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // Writing to a String cannot fail, and no value is refused.
        let _ = prometheus_text::encode(&mut text, &registry);
        text
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in &self.0 {
            let kind = match metric.samples {
                Samples::Counters(_) => MetricType::Counter,
                Samples::Gauges(_) => MetricType::Gauge,
                Samples::Histograms(_) => MetricType::Histogram,
            };
            let encoder = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            metric.samples.encode(encoder)?;
        }
        Ok(())
    }
}

impl Samples {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Counters(samples) => {
                for (labels, value) in samples {
                    let mut encoder = encoder.encode_family(labels)?;
                    encoder.encode_counter::<NoLabelSet, f64, f64>(value, None)?;
                }
            }
            Self::Gauges(samples) => {
                for (labels, value) in samples {
                    encoder.encode_family(labels)?.encode_gauge(value)?;
                }
            }
            Self::Histograms(samples) => {
                for (labels, Distribution { sum, buckets }) in samples {
                    let count = buckets.iter().map(|(_, count)| count).sum();
                    let mut encoder = encoder.encode_family(labels)?;
                    encoder.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)?;
                }
            }
        }
        Ok(())
    }
}

/// A whole number as Prometheus stores it: exact up to 9 PB of bytes.
#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus knows floating-point numbers only"
)]
pub(super) fn number(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_written_as_prometheus_reads_it() {
        let mut page = Page::default();
        page.counter("boathouse_tokens_issued", "Tokens", 3);
        page.gauges("boathouse_nothing", "Nothing", Vec::new());
        let label = |value: &str| vec![("handler", value.to_owned())];
        page.gauges("in_flight", "Open", vec![(label("a\"\n\\"), 0.5)]);
        let buckets = vec![(0.5, 1), (1.0, 2), (f64::INFINITY, 1)];
        let distribution = Distribution { sum: 4.0, buckets };
        page.histograms("seconds", "Time", vec![(label("blob"), distribution)]);
        let expected = "\
# HELP boathouse_tokens_issued_total Tokens
# TYPE boathouse_tokens_issued_total counter
boathouse_tokens_issued_total 3.0
# HELP in_flight Open
# TYPE in_flight gauge
in_flight{handler=\"a\\\"\\n\\\\\"} 0.5
# HELP seconds Time
# TYPE seconds histogram
seconds_bucket{handler=\"blob\",le=\"0.5\"} 1
seconds_bucket{handler=\"blob\",le=\"1\"} 3
seconds_bucket{handler=\"blob\",le=\"+Inf\"} 4
seconds_sum{handler=\"blob\"} 4.0
seconds_count{handler=\"blob\"} 4
";
        assert_eq!(page.text(), expected);
    }
}
