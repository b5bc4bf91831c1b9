// The records of the browser: which of them pass the filters, and in which order. No element is touched here.
window.report.records = (() => {
  const MODELS = ["base", "sft", "ppo"];

  // What "before" and "after" mean for a record: SFT and PPO, else the first and the last response.
  function ends(record) {
    const named = Object.fromEntries(record.samples.map((sample) => [sample.m, sample]));
    const last = record.samples[record.samples.length - 1];
    return { before: named.sft || record.samples[0], after: named.ppo || last };
  }

  function difference(record, field) {
    const { before, after } = ends(record);
    if (before === after || before[field] === undefined || after[field] === undefined) return null;
    return after[field] - before[field];
  }

  // Gold scores decide what "improved" means; without any, rewards do.
  function measure(group) {
    return group.records.some((record) => record.samples.some((sample) => sample.g !== undefined)) ? "g" : "w";
  }

  function prepare(group) {
    const field = measure(group);
    group.measure = field;
    group.records.forEach((record, index) => {
      record.index = index;
      record.gain = difference(record, field);
      record.hacked = field === "g" && record.gain < 0 && difference(record, "w") > 0;
      record.text = [record.id, record.prompt, ...record.samples.map((sample) => sample.r)].join("\n").toLowerCase();
    });
  }

  const CHANGES = {
    all: () => true,
    improved: (record) => record.gain > 1e-9,
    worsened: (record) => record.gain !== null && record.gain < -1e-9,
    same: (record) => record.gain !== null && Math.abs(record.gain) <= 1e-9,
    hacked: (record) => record.hacked,
    truncated: (record) => ends(record).after.f === false,
  };

  function largest(value) {
    const key = (record) => {
      const found = value(record);
      return found === null || found === undefined ? -Infinity : found;
    };
    return (one, other) => {
      const [first, second] = [key(one), key(other)];
      return first === second ? one.index - other.index : second - first;
    };
  }

  const negated = (value) => (value === null || value === undefined ? null : -value);
  const ORDERS = {
    order: (one, other) => one.index - other.index,
    gain: largest((record) => record.gain),
    loss: largest((record) => negated(record.gain)),
    gold: largest((record) => negated(ends(record).after.g)),
    score: largest((record) => ends(record).after.w),
    kl: largest((record) => ends(record).after.k),
    length: largest((record) => ends(record).after.n),
    step: largest((record) => ends(record).after.s),
  };

  function select(group, { search, language, family, change, sort }) {
    const wanted = search.trim().toLowerCase();
    return group.records
      .filter((record) => !language || record.lang === language)
      .filter((record) => !family || record.family === family)
      .filter(CHANGES[change])
      .filter((record) => !wanted || record.text.includes(wanted))
      .sort(ORDERS[sort]);
  }

  return { MODELS, CHANGES: Object.keys(CHANGES), ORDERS: Object.keys(ORDERS), prepare, select };
})();
