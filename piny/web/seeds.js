// What fewer seeds would have told: the statistics of a study in plain JavaScript, as piny.statistics
// has them. Critical values come with the study, since they take an integral over many dimensions.
'use strict'

const pinySeeds = (() => {

const studies = {}
const add = study => { studies[study.name] = study }

const RATIOS = [0, ...Array.from({length: 33}, (_, i) => 10 ** (i / 8 - 2))] // variance of seeds to the rest
const sum = list => list.reduce((a, b) => a + b, 0)
const mean = list => sum(list) / list.length
const dot = (a, b) => sum(a.map((x, i) => x * b[i]))
const transposed = a => a[0].map((_, i) => a.map(row => row[i]))
const product = (a, b) => a.map(row => transposed(b).map(column => dot(row, column)))
const identity = n => Array.from({length: n}, (_, i) => Array.from({length: n}, (_, j) => Number(i === j)))

function inverse(a) { // of a positive definite matrix, and the logarithm of its determinant
  const n = a.length
  const rows = a.map((row, i) => [...row, ...identity(n)[i]])
  let logDet = 0
  for (let i = 0; i < n; i++) {
    const pivot = rows[i][i]
    logDet += Math.log(pivot)
    rows[i] = rows[i].map(x => x / pivot)
    for (let j = 0; j < n; j++) {
      const factor = rows[j][i]
      if (j !== i && factor) rows[j] = rows[j].map((x, k) => x - factor * rows[i][k])
    }
  }
  return [rows.map(row => row.slice(n)), logDet]
}

function unexplained(columns, y) { // squares that no column explains, and their degrees of freedom
  const basis = []
  const rest = vector => basis.reduce((v, b) => {
    const along = dot(v, b)
    return v.map((x, i) => x - along * b[i])
  }, vector)
  for (const column of columns) {
    const left = rest(column)
    const length = Math.sqrt(dot(left, left))
    if (length > 1e-9) basis.push(left.map(x => x / length))
  }
  const left = rest(y)
  return [dot(left, left), y.length - basis.length]
}

function fit(runs) { // {variant: {seed: loss}}: differences to the first, and their standard errors
  const names = Object.keys(runs)
  const rows = names.flatMap(v => Object.entries(runs[v]).map(([s, loss]) => [v, s, loss]))
  const seeds = [...new Set(rows.map(([, s]) => s))]
  const X = rows.map(([v]) => names.map(name => Number(v === name)))
  const Z = rows.map(([, s]) => seeds.map(seed => Number(s === seed)))
  const y = rows.map(([, , loss]) => loss)
  const together = product(Z, transposed(Z))
  const tried = RATIOS.map(ratio => {
    const [Vi, logV] = inverse(together.map((row, i) => row.map((x, j) => ratio * x + Number(i === j))))
    const XtVi = product(transposed(X), Vi)
    const [cov, logA] = inverse(product(XtVi, X))
    const means = product(cov, product(XtVi, y.map(loss => [loss]))).map(([m]) => m)
    const left = rows.map(([v, , loss]) => loss - means[names.indexOf(v)])
    const rest = dot(left, product(Vi, left.map(x => [x])).map(([x]) => x))
    return {means, cov, misfit: (y.length - names.length) * Math.log(Math.max(rest, 1e-300)) + logV + logA}
  })
  const least = Math.min(...tried.map(one => one.misfit))
  const {means, cov} = tried.findLast(one => one.misfit <= least + 1) // one standard error above
  const [squares, dof] = unexplained([...transposed(X), ...transposed(Z)], y)
  const spread = Math.sqrt(squares / dof)
  return Object.fromEntries(names.slice(1).map((name, i) => [name, {
    mean: means[i + 1] - means[0],
    error: spread * Math.sqrt(cov[0][0] + cov[i + 1][i + 1] - 2 * cov[0][i + 1]),
  }]))
}

function apart(runs, name, quiet) { // a variant whose runs differ more than those of the others
  const squares = list => sum(list.map(x => (x - mean(list)) ** 2))
  const groups = quiet.map(v => Object.values(runs[v]))
  const own = Object.values(runs[name])
  const dof = sum(groups.map(group => group.length - 1))
  const error = squares(own) / (own.length - 1) / own.length + sum(groups.map(squares)) / dof / groups[0].length
  return {mean: mean(own) - mean(groups[0]), error: Math.sqrt(error)}
}

function verdict(low, high, margin) {
  if (-margin < low && high < margin) return `equal within ±${margin}`
  return low > 0 ? 'worse' : high < 0 ? 'better' : 'cannot tell apart'
}

function chosen(study, n) { // the losses that n seeds of each variant, and their share of the baseline's, give
  return Object.fromEntries(Object.entries(study.losses).map(([v, its]) =>
    [v, Object.fromEntries(study.designs[n].seeds[v].map(s => [s, its[s]]))]))
}

function compare(study, n) { // variant to mean, low, high and verdict, had there been n seeds
  const {critical, loud} = study.designs[n]
  const runs = chosen(study, n)
  const quiet = Object.keys(runs).filter(v => !loud.includes(v))
  const found = fit(Object.fromEntries(quiet.map(v => [v, runs[v]])))
  for (const v of loud) found[v] = apart(runs, v, quiet)
  return Object.fromEntries(Object.keys(runs).slice(1).map(v => {
    const {mean, error} = found[v]
    const [low, high] = [mean - critical[v] * error, mean + critical[v] * error]
    return [v, {mean, low, high, verdict: verdict(low, high, study.margin)}]
  }))
}

function choices(list, n) { // all ways to take n of a list
  if (!n) return [[]]
  return list.flatMap((first, i) => choices(list.slice(i + 1), n - 1).map(rest => [first, ...rest]))
}

function reversed(study, n) { // share of pairs of variants whose order n seeds would have turned around
  const names = Object.keys(study.losses)
  const all = Object.keys(study.losses[names[1]]) // the seeds that all have
  const pairs = choices(names, 2)
  const order = seeds => {
    const means = Object.fromEntries(names.map(v => [v, mean(seeds.map(s => study.losses[v][s]))]))
    return pairs.map(([a, b]) => means[a] < means[b])
  }
  const last = order(all)
  return mean(choices(all, n).map(seeds => mean(order(seeds).map((x, i) => Number(x !== last[i])))))
}

return {studies, add, fit, compare, reversed}
})()
