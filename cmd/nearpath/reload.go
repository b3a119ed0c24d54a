package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// reloadEvery is how often the configuration's files are compared. Comparing costs two small reads and sees also the
// way a mounted ConfigMap changes, which is by a link two directories up.
const reloadEvery = 5 * time.Second

// A reloader is a Task that applies changes of the configuration's files. A file with a fault changes nothing: the
// faults are logged, counted, and the last good configuration goes on.
type reloader struct {
	path    string
	read    func(path string) (config, error) // with flags laid over, and checked
	apply   func(config) error
	current config
	seen    []byte
	log     *slog.Logger
	every   time.Duration
	ready   chan struct{}
	good    prometheus.Gauge
}

func newReloader(path string, current config, read func(string) (config, error), apply func(config) error, log *slog.Logger, metrics prometheus.Registerer) *reloader {
	good := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "nearpath_config_good", Help: "1 when the configuration's files are what the agent runs by, 0 when they were refused.",
	})
	metrics.MustRegister(good)
	good.Set(1)
	r := &reloader{path: path, read: read, apply: apply, current: current, log: log, every: reloadEvery, ready: make(chan struct{}), good: good}
	r.seen = r.text(current)
	close(r.ready)
	return r
}

func (r *reloader) String() string         { return "configuration" }
func (r *reloader) Ready() <-chan struct{} { return r.ready }

func (r *reloader) Run(ctx context.Context) error {
	tick := time.NewTicker(r.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if now := r.text(r.current); !bytes.Equal(now, r.seen) {
			r.seen = now
			r.reload()
		}
	}
}

// text is what the files hold; a file that cannot be read counts as empty, and reading it then tells why.
func (r *reloader) text(c config) []byte {
	var all []byte
	for _, path := range []string{r.path, c.ENIConfig} {
		if path == "" {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			text = []byte(err.Error())
		}
		all = append(append(all, text...), 0)
	}
	return all
}

func (r *reloader) reload() {
	next, err := r.read(r.path)
	if err == nil {
		err = r.apply(next)
	}
	if err != nil {
		r.good.Set(0)
		r.log.Error("configuration refused, the last good one goes on", "err", err)
		return
	}
	r.good.Set(1)
	r.log.Info("configuration applied")
	for _, note := range next.notes {
		r.log.Warn("configuration", "key", note)
	}
	if keys := changedKeys("", fixed(r.current), fixed(next)); len(keys) > 0 {
		r.log.Warn("configuration takes effect with the next start", "keys", strings.Join(keys, ", "))
	}
	r.current.ENIConfig = next.ENIConfig
}

// fixed is the configuration without what takes effect at once.
func fixed(c config) config {
	c.LogLevel, c.Egress, c.notes, c.ENIConfig = 0, egressConfig{}, nil, ""
	c.DNS = dnsConfig{Address: c.DNS.Address, Address6: c.DNS.Address6, Service: c.DNS.Service}
	c.Policy.LogDrops = false
	c.Pool = poolConfig{Stack: c.Pool.Stack, SpreadIRQs: c.Pool.SpreadIRQs}
	c.Network.Datapath, c.Network.Sandboxed, c.Network.MeshContainers, c.Network.RuntimeClasses = "", nil, nil, nil // of pods that come
	c.Cloud.VSwitches, c.Cloud.VSwitchPolicy, c.Cloud.SecurityGroups, c.Cloud.ResourceGroup = nil, "", nil, ""
	c.Cloud.ENITags, c.Cloud.ENITagFilter, c.Cloud.ENITagBlock, c.Cloud.RateLimits = nil, nil, nil, nil
	return c
}

// changedKeys lists the keys in which two values of one type differ.
func changedKeys(path string, a, b any) []string {
	keys := changedFields(path, reflect.ValueOf(a), reflect.ValueOf(b))
	slices.Sort(keys)
	return keys
}

func changedFields(path string, x, y reflect.Value) (keys []string) {
	for i := range x.NumField() {
		field := x.Type().Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case name == "" && field.Anonymous: // its keys are among those of the struct it is in
			keys = append(keys, changedFields(path, x.Field(i), y.Field(i))...)
		case name != "":
			keys = append(keys, changedField(strings.TrimPrefix(path+"."+name, "."), x.Field(i), y.Field(i))...)
		}
	}
	return keys
}

func changedField(path string, x, y reflect.Value) []string {
	switch {
	case reflect.DeepEqual(x.Interface(), y.Interface()):
		return nil
	case isGroup(x.Type()):
		return changedFields(path, x, y)
	}
	return []string{path}
}

// isGroup says that the type holds keys, and is not a value such as an address.
func isGroup(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t.NumField() > 0 && (t.Field(0).Tag != "" || t.Field(0).Anonymous)
}
