package measure

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// A Result is everything a run measured, and on what. It holds raw samples only: what they mean is computed when they
// are read.
type Result struct {
	Benchmark string    `json:"benchmark"`
	What      string    `json:"what"`
	Version   string    `json:"version"` // of nearpath
	Quick     bool      `json:"quick"`
	Began     time.Time `json:"began"`
	Ended     time.Time `json:"ended"`
	Machine   Machine   `json:"machine"`
	// LoadBefore and LoadAfter are the machine's load averages over one minute.
	LoadBefore float64        `json:"loadBefore"`
	LoadAfter  float64        `json:"loadAfter"`
	Series     []SeriesResult `json:"series"`
}

// A SeriesResult is what one series measured.
type SeriesResult struct {
	Name    string       `json:"name"`
	What    string       `json:"what"`
	Scale   Scale        `json:"scale"`
	Metrics []Metric     `json:"metrics"`
	Cases   []CaseResult `json:"cases"`
}

// A CaseResult has the samples of a case by metric, one list for each round, in the order of the rounds.
type CaseResult struct {
	Name    string                 `json:"name"`
	Role    Role                   `json:"role"`
	Samples map[string][][]float64 `json:"samples"`
}

// Summary is over all rounds.
func (c CaseResult) Summary(m Metric) Summary {
	return m.Summarize(slices.Concat(c.Samples[m.Name]...))
}

func (s SeriesResult) byRole(role Role) []CaseResult {
	return slices.DeleteFunc(slices.Clone(s.Cases), func(c CaseResult) bool { return c.Role != role })
}

// tolerated is the drift of the floor up to which a run counts.
const tolerated = 0.15

// A Drift says that a floor was not the same at the end as at the beginning.
type Drift struct {
	Series, Metric string
	By             float64 // see drift
}

func (d Drift) String() string {
	return fmt.Sprintf("%s, %s: the floor's median changed by %+.0f %% from the first third of the rounds to the last", d.Series, d.Metric, 100*d.By)
}

// Drifts are the floors that drifted by more than 15 %. With any, the run does not count: whatever changed on the machine
// changed the other figures as well.
func (r Result) Drifts() (found []Drift) {
	for _, s := range r.Series {
		for _, m := range s.Metrics {
			for _, c := range s.byRole(Floor) {
				if by := drift(c.Samples[m.Name]); math.Abs(by) > tolerated {
					found = append(found, Drift{s.Name, m.Name, by})
				}
			}
		}
	}
	return found
}

// fileTime sorts by age.
const fileTime = "20060102T150405Z"

// Write writes the result into dir, which is made if absent, and returns the file's path.
func (r Result) Write(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("encode the result of %s: %w", r.Benchmark, err)
	}
	path := filepath.Join(dir, fmt.Sprintf("%s-%s.json", r.Benchmark, r.Began.UTC().Format(fileTime)))
	return path, os.WriteFile(path, append(text, '\n'), 0o644)
}

// ErrNoResult says that a benchmark has not been run yet.
var ErrNoResult = errors.New("no result")

// Newest reads the newest result of a benchmark from dir. The error matches ErrNoResult when there is none.
func Newest(dir, benchmark string) (Result, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Result{}, err
	}
	newest := ""
	for _, e := range entries {
		stamp, ours := cutStamp(e.Name(), benchmark)
		if ours && cmp.Compare(stamp, newest) > 0 {
			newest = stamp
		}
	}
	if newest == "" {
		return Result{}, fmt.Errorf("read %s from %s: %w", benchmark, dir, ErrNoResult)
	}
	text, err := os.ReadFile(filepath.Join(dir, benchmark+"-"+newest+".json"))
	if err != nil {
		return Result{}, err
	}
	var r Result
	if err := json.Unmarshal(text, &r); err != nil {
		return Result{}, fmt.Errorf("read the result of %s at %s: %w", benchmark, newest, err)
	}
	return r, nil
}

// cutStamp is the time in a result's file name.
func cutStamp(name, benchmark string) (stamp string, ours bool) {
	width := len(fileTime)
	if len(name) != len(benchmark)+len("-.json")+width || name[:len(benchmark)+1] != benchmark+"-" {
		return "", false
	}
	stamp = name[len(benchmark)+1:][:width]
	_, err := time.Parse(fileTime, stamp)
	return stamp, err == nil && filepath.Ext(name) == ".json"
}
