package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A publisherFile is the syncer's configuration file. The syncer follows it: a change starts it anew within the process, as it
// has no state but in memory, and a file with a fault changes nothing.
type publisherFile struct {
	path  string
	dry   bool // whatever the file says
	every time.Duration
	level *slog.LevelVar
	log   *slog.Logger
	good  prometheus.Gauge
	seen  []byte
}

func newPublisherFile(path string, dry bool, level *slog.LevelVar, log *slog.Logger) *publisherFile {
	return &publisherFile{
		path: path, dry: dry, every: reloadEvery, level: level, log: log,
		good: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nearpath_config_good", Help: "1 when the configuration's file is what the syncer runs by, 0 when it was refused.",
		}),
	}
}

// run publishes by the file until ctx ends. That it cannot begin with what the file says is a usageError.
func (f *publisherFile) run(ctx context.Context) error {
	cfg, err := f.read()
	if err != nil {
		return usageError{err}
	}
	f.good.Set(1)
	f.level.Set(cfg.LogLevel)
	var last *publisherConfig // that the syncer has run by
	for {
		next, err := f.follow(ctx, cfg)
		var wrong usageError
		switch {
		case next != nil:
			before := cfg
			last, cfg = &before, *next
			f.log.Info("configuration applied: the syncer starts anew")
		case errors.As(err, &wrong) && last != nil && ctx.Err() == nil:
			f.refuse(err)
			cfg, last = *last, nil
		default:
			return err
		}
	}
}

// follow runs the syncer until there is another configuration, or until it ends.
func (f *publisherFile) follow(ctx context.Context, cfg publisherConfig) (next *publisherConfig, err error) {
	round, end := context.WithCancel(ctx)
	watched := make(chan *publisherConfig, 1)
	go func() {
		defer end()
		watched <- f.watch(round, cfg)
	}()
	err = runPublisher(round, cfg, f.log, f.good)
	end()
	return <-watched, err
}

// watch returns what the file says once it says something else, or nil when ctx ends. The level of the log needs no start.
func (f *publisherFile) watch(ctx context.Context, now publisherConfig) *publisherConfig {
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if bytes.Equal(f.text(), f.seen) {
			continue
		}
		next, err := f.read()
		if err != nil {
			f.refuse(err)
			continue
		}
		f.good.Set(1)
		f.level.Set(next.LogLevel)
		now.LogLevel = next.LogLevel
		if keys := changedKeys("", now, next); len(keys) > 0 {
			f.log.Info("configuration has changed", "keys", strings.Join(keys, ", "))
			return &next
		}
	}
}

func (f *publisherFile) refuse(err error) {
	f.good.Set(0)
	f.log.Error("configuration refused, the last good one goes on", "err", err)
}

// text is what the file holds; one that cannot be read counts as what is wrong with it.
func (f *publisherFile) text() []byte {
	text, err := os.ReadFile(f.path)
	if err != nil {
		return []byte(err.Error())
	}
	return text
}

func (f *publisherFile) read() (publisherConfig, error) {
	f.seen = f.text()
	cfg, err := readPublisherConfig(f.path)
	cfg.DryRun = cfg.DryRun || f.dry
	return cfg, err
}
