//! Windows, padding and masks under random settings, against a numpy reference.

mod common;

use std::io::Write;
use std::sync::Arc;

use common::Bench;
use emg_pipeline::cache::{self, Access, BuildOptions, Cache, NoEvents, Split};
use emg_pipeline::config;
use emg_pipeline::dataset::{BatchShape, Gather, Loader, Needs, Pass, WindowIndex};
use emg_pipeline::random::Random;
use emg_pipeline::recording::Hdf5;
use serde_json::json;

#[test]
fn windows_are_those_that_numpy_cuts() {
    let bench = Bench::new();
    for (i, seconds) in ["0.02", "0.06", "0.11", "0.2"].iter().enumerate() {
        let (folder, seed) = (format!("data/{i}"), i.to_string());
        let args = ["--recordings", "3", "--seconds", seconds, "--ik-failures", "0.3", "--seed", &seed];
        bench.ok("emg-cache", &[&["synth", &folder][..], &args, &["--channels", "3", "--joints", "2"]].concat());
        std::fs::remove_file(bench.path(&folder).join("metadata.csv")).unwrap();
    }
    let mut cases = Vec::new();
    for case in 0..40u64 {
        let mut random = Random::new(&[11, case]);
        let mut up_to = |n: u64| random.up_to(n) as usize;
        let (window, stride, context) = (1 + up_to(60), 1 + up_to(40), up_to(20));
        let padding = if up_to(1) == 0 { [0, 0] } else { [up_to(70), up_to(70)] };
        let (eval_window, eval_stride, skip) = (1 + up_to(60), 1 + up_to(40), up_to(1) == 1);
        let context = context.min(window + padding[0] + padding[1] - 1).min(eval_window - 1);
        let sets = [
            "data.emg_channels=3".to_owned(),
            "model.input_size=3".into(),
            "data.joint_angles_channels=2".into(),
            "model.output_size=2".into(),
            "data.on_bad_recording=skip".into(),
            "data.normalize_emg=none".into(),
            "data.split_ratio=[0.4,0.3,0.3]".into(),
            format!("data.window_size={window}"),
            format!("data.stride={stride}"),
            format!("data.eval_window={eval_window}"),
            format!("data.eval_stride={eval_stride}"),
            format!("data.padding=[{},{}]", padding[0], padding[1]),
            format!("data.skip_ik_failures={skip}"),
        ];
        let config = config::load(None, &sets).unwrap().config;
        let options = BuildOptions::new(&config, vec![bench.path("data")], Hdf5::InProcess).unwrap();
        let key = match cache::build(&bench.path("st"), &options, &NoEvents) {
            Ok(built) => built.key,
            // No training recording has a window.
            Err(cache::CacheError::NoUsableRecordings { .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        let cache = Arc::new(Cache::open(&bench.path("st"), &key, &Access::default()).unwrap());
        let dumped: Vec<_> = Split::ALL.map(|split| dump(&bench, &cache, case, split, context)).into();
        let recordings: Vec<_> = cache
            .recordings()
            .map(|recording| json!({"path": recording.listed.path, "split": recording.listed.split}))
            .collect();
        cases.push(json!({"settings": cache.manifest().settings, "context": context, "recordings": recordings,
            "windows": cache.manifest().windows, "dumped": dumped}));
    }
    assert!(cases.len() > 30, "{}", cases.len());
    std::fs::write(bench.path("cases.json"), serde_json::to_vec(&cases).unwrap()).unwrap();
    let said = bench.python("check_windows.py", &["cases.json", "data"]);
    println!("{said}");
    assert!(said.starts_with("ok: "), "{said}");
}

/// Writes all of a split's windows, in evaluation order, as float32: EMG, angles, mask.
fn dump(bench: &Bench, cache: &Arc<Cache>, case: u64, split: Split, context: usize) -> serde_json::Value {
    let index = WindowIndex::new(Arc::clone(cache), split);
    let (windows, rows) = (index.len(), index.shape().rows());
    let shape = BatchShape { batch: 7, rows, channels: 3, joints: 2, context, after: 0 };
    let path = format!("case{case}-{split}.bin");
    let mut file = std::io::BufWriter::new(std::fs::File::create(bench.path(&path)).unwrap());
    if windows > 0 {
        let gather = Arc::new(Gather { index, shape, needs: Needs::default(), resident: None });
        let mut loader = Loader::start(gather, Pass::Evaluation, 2, 2);
        while let Some(batch) = loader.next_batch().unwrap() {
            let content = batch.rows().unwrap();
            for i in 0..batch.windows.len() {
                for (values, width) in [
                    (&content.emg, rows * 3),
                    (&content.joint_angles, (rows - context) * 2),
                    (&content.mask, rows - context),
                ] {
                    file.write_all(bytemuck::cast_slice(&values[i * width..(i + 1) * width])).unwrap();
                }
            }
            loader.recycle(batch);
        }
    }
    json!({"path": path, "split": split, "windows": windows, "rows": rows})
}
