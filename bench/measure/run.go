package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Run sets the benchmark up, runs its series and takes it down again, whatever happens in between.
func Run(ctx context.Context, b Benchmark, env Env) (r Result, err error) {
	r = Result{Benchmark: b.Name, What: b.What, Version: env.Version, Quick: env.Quick, Began: time.Now()}
	if r.Machine, err = ThisMachine(); err != nil {
		return r, err
	}
	if r.LoadBefore, err = load(); err != nil {
		return r, err
	}
	fmt.Fprintf(env.Progress, "%s: %s\n", b.Name, b.What)
	bed, err := b.Setup(ctx, env)
	if err != nil {
		return r, fmt.Errorf("set up %s: %w", b.Name, err)
	}
	defer func() { err = errors.Join(err, bed.Close()) }()
	for _, s := range bed.Series {
		measured, err := runSeries(ctx, s, env.Progress)
		if err != nil {
			return r, fmt.Errorf("%s, %s: %w", b.Name, s.Name, err)
		}
		r.Series = append(r.Series, measured)
	}
	if r.LoadAfter, err = load(); err != nil {
		return r, err
	}
	r.Ended = time.Now()
	return r, nil
}

func runSeries(ctx context.Context, s Series, progress io.Writer) (SeriesResult, error) {
	r := SeriesResult{Name: s.Name, What: s.What, Scale: s.Scale, Metrics: s.Metrics}
	for _, c := range s.Cases {
		r.Cases = append(r.Cases, CaseResult{Name: c.Name, Role: c.Role, Samples: map[string][][]float64{}})
	}
	began, told := time.Now(), time.Now()
	for round := range s.Unmeasured + s.Rounds {
		if err := s.round(ctx, round, r.Cases); err != nil {
			return r, err
		}
		if time.Since(told) > 5*time.Second {
			told = time.Now()
			fmt.Fprintf(progress, "  %s: round %d of %d\n", s.Name, round+1, s.Unmeasured+s.Rounds)
		}
	}
	fmt.Fprintf(progress, "  %s: %d rounds of %d cases in %.1f s\n", s.Name, s.Rounds, len(s.Cases), time.Since(began).Seconds())
	return r, nil
}

// round runs every case once.
func (s Series) round(ctx context.Context, round int, results []CaseResult) error {
	for _, i := range order(len(s.Cases), round) {
		if err := ctx.Err(); err != nil {
			return err
		}
		samples, err := s.Cases[i].Round(ctx)
		if err != nil {
			return fmt.Errorf("round %d of %s: %w", round, s.Cases[i].Name, err)
		}
		if round < s.Unmeasured {
			continue
		}
		for metric, values := range samples {
			results[i].Samples[metric] = append(results[i].Samples[metric], values)
		}
	}
	if s.After == nil {
		return nil
	}
	if err := s.After(ctx); err != nil {
		return fmt.Errorf("after round %d: %w", round, err)
	}
	return nil
}
