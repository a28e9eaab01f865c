//! What histograms count by.

/// Upper bounds of a histogram's buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buckets {
    /// For one step of the work: from a decode of a few rows to a commit under a throttled log rate, which runs
    /// into its timeout at 60 s.
    StepSeconds,
    /// From the publishing of an event to its commit: from a quiet stream to a backlog of a day. Between 0.1 s and 2.5 s,
    /// where `max_age` is, a percentile that is read from them is exact to a tenth or a seventh.
    EndToEndSeconds,
    /// Batches. 102,400 rows is where a columnstore begins to compress, 1,048,576 where a rowgroup is full.
    Rows,
    /// Batches, by powers of four up to 1 GiB, with bounds at the default of 8 MiB and at 32 MiB.
    Bytes,
}

impl Buckets {
    /// The bounds, ascending.
    pub const fn bounds(self) -> &'static [f64] {
        match self {
            Buckets::StepSeconds => {
                &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]
            }
            Buckets::EndToEndSeconds => &[
                0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7,
                0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 20.0,
                30.0, 60.0, 300.0, 1_800.0, 7_200.0, 28_800.0, 86_400.0,
            ],
            Buckets::Rows => &[
                1.0,
                10.0,
                100.0,
                1_000.0,
                10_000.0,
                50_000.0,
                102_399.0,
                102_400.0,
                262_144.0,
                524_288.0,
                1_048_576.0,
            ],
            Buckets::Bytes => &[
                1_024.0,
                4_096.0,
                16_384.0,
                65_536.0,
                262_144.0,
                1_048_576.0,
                4_194_304.0,
                8_388_608.0,
                16_777_216.0,
                33_554_432.0,
                67_108_864.0,
                268_435_456.0,
                1_073_741_824.0,
            ],
        }
    }
}
