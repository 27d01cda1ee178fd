"""Every path in a bundle, once, and what each holds.

    manifest.json      schema version, identity, signature, preprocessing, labels, runtime and knobs, sha256 of every other file,
                       and a digest of itself
    program/           what the runtime loads, as it was certified
    model.onnx         the same candidate, portable (absent where the program itself is the only form)
    golden.npz         a few real inputs and the outputs that the certified program gave for them
    evidence.jsonl     raw measurements, verdicts and decisions: one JSON object a line (see EVIDENCE below)
    front.json         the candidates that no other one dominates
    distribution.json  histograms of what the certify split looks like, in and out, for the drift watch (absent in older bundles, and
                       where nothing was certified)
    MODEL_CARD.md      what this is, for people
    report.html        the report, self-contained

EVIDENCE: each line has `kind`:

    run           {command, job{...}, machine{id,text,cpu,cores,...}, versions{package: version}, started (ISO 8601),
                   budget_seconds, account_seconds{name: seconds}, load{before, after, busy: bool, sentence}, metric,
                   labelled: bool, objective, limits{...}, threads, batch_size, num_samples{calibrate, select, certify},
                   noise_floor{value, low, high}, model_name, flops, parameters,
                   energy{label: measured|estimated|unknown, how (one sentence)}, finished: bool (false: the search had not ended)}
    trial         {id, text, recipe[...], runtime, knobs{...}, facts[...], notes[...] (what training told), lossless,
                   fate (start|reference|answer|passed|promising|lost|failed), reason, on_front: bool, size_bytes, peak_memory_bytes|null,
                   latency{value,low,high}|null (seconds), throughput{value,low,high}|null (samples/s, at batch), best_batch|null,
                   energy{value,low,high,label: measured|estimated}|null (joules of a call),
                   speedup{value,low,high}|null (over the reference, same run), drop{value,low,high,n}|null (points, select split),
                   quality{metric: value}, verdict{outcome, reason, drop{...}, limit, alpha, needed_samples, method}|null}
    measurement   {trial, stage: explore|final, metric, unit, samples[...], groups[...], cpu_seconds[...], method{...}, where{...}}
    decision      {seconds (of the budget), what, why, learnt, and of a step that was chosen by what it promised: forecast{speedup, low,
                   high (90 %), right (probability), seconds}, outcome{speedup|null, right|null, seconds}|null; and of a technique that
                  tries things itself: tried[{...}]}
    disagreement  {index (in the certify split), label|null, start (class name or number), answer, confidence_start,
                   confidence_answer, picture: base64 PNG or null}
    outcomes      {split: certify, metric, start: [per-sample outcome], answer: [per-sample outcome]}
    answer        the document that `hasten optimize --json` prints
"""

from __future__ import annotations

SCHEMA_VERSION = 1

MANIFEST = "manifest.json"
PROGRAM = "program"
PORTABLE = "model.onnx"
GOLDEN = "golden.npz"
EVIDENCE = "evidence.jsonl"
FRONT = "front.json"
DISTRIBUTION = "distribution.json"
CARD = "MODEL_CARD.md"
REPORT = "report.html"

COPY_AGAIN = "Copy the bundle again"
REMOVE_IT = "Remove it, or copy the bundle again"
"""The ways out of a damaged bundle."""
