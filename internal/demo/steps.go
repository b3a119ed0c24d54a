package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/nearpath/nearpath/test/netlab"
)

func (d *demo) showPods(ctx context.Context) error {
	for _, n := range d.nodes {
		out, err := n.Command(ctx, filepath.Join(n.bin, "nearpath"), "get", "pods").CombinedOutput()
		if err != nil {
			return fmt.Errorf("list the pods of %s: %w: %s", n.name, err, out)
		}
		d.detail("on %s:", n.name)
		for line := range strings.Lines(string(out)) {
			d.detail("  %s", strings.TrimRight(line, "\n"))
		}
	}
	return nil
}

// names are the forms of a Service's name that pods use.
func (d *demo) names() []string {
	names := []string{"web", "catalog.shop", "web.shop.svc", "catalog.shop.svc.cluster.local"}
	if d.DualStack {
		names = append(names, "catalog6")
	}
	return names
}

// callByName calls Services by the forms of their name, from both nodes, until a pod of each node has answered.
func (d *demo) callByName(ctx context.Context) error {
	for i := range d.nodes {
		shopper := d.find("shopper", i)
		for _, name := range d.names() {
			addrs, err := shopper.exec(ctx, "lookup", name, "--timeout", "2s")
			if err != nil {
				return err
			}
			answered := map[string]string{}
			for len(answered) < len(d.nodes) {
				if err := call(ctx, shopper, name, answered); err != nil {
					return err
				}
			}
			d.detail("%s on %s: %-30s is %s, answered by %s and %s", shopper.name, shopper.node.name, name, addrs,
				answered[d.nodes[0].name], answered[d.nodes[1].name])
		}
		answered := map[string]string{}
		if err := call(ctx, shopper, "search", answered); err != nil {
			return err
		}
		d.detail("%s on %s: %-30s is a pod with an ENI of its own, answered by %s", shopper.name, shopper.node.name, "search", d.find("search", 0).name)
	}
	return nil
}

// call makes one request and notes, by node, which pod answered. The front end's answer proves that it reached the back
// end by name, too.
func call(ctx context.Context, from *pod, name string, answered map[string]string) error {
	body, err := from.exec(ctx, "get", "http://"+name+"/", "--timeout", "2s")
	if err != nil {
		return err
	}
	var got struct{ Pod, Node, Error string }
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		return fmt.Errorf("read the answer of %s: %w: %s", name, err, body)
	}
	if got.Error != "" {
		return fmt.Errorf("%s, which %s called, could not call its own back end: %s", got.Pod, from.name, got.Error)
	}
	answered[got.Node] = got.Pod
	return nil
}

// A report is what the pod program's load generator prints.
type report struct {
	OK, Failed int
	Errors     []struct{ Error string }
	Pods       map[string]int
	P50        int64 `json:"p50_ns"`
	P99        int64 `json:"p99_ns"`
	Max        int64 `json:"max_ns"`
}

// A load is traffic that runs while something is done to the system.
type load struct {
	from    *pod
	process *netlab.Process
	out     output
}

// output is what a process has printed so far. It is safe for concurrent use.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Split(strings.TrimSpace(o.text.String()), "\n")
}

// rate is how many requests a second each load makes, each on a new connection and with a new lookup of the name.
const rate = 100

// startLoad returns when the load's first requests have been answered.
func (d *demo) startLoad(ctx context.Context, from *pod, url string) (*load, error) {
	l := &load{from: from}
	cmd := from.sandbox.Command(context.WithoutCancel(ctx), filepath.Join(d.Bin, "podapp"),
		"load", url, "--rate", fmt.Sprint(rate), "--timeout", "10s", "--announce", "20")
	cmd.Stdout, cmd.Stderr = &l.out, &l.out
	var err error
	if l.process, err = d.lab.Start(cmd); err != nil {
		return nil, err
	}
	if err := await(ctx, func() bool { return l.out.lines()[0] != "" }); err != nil {
		return nil, fmt.Errorf("wait for the first answers to %s from %s: %w", url, from.name, err)
	}
	return l, nil
}

// finish ends the load, waits for its last answers and fails if any request did.
func (l *load) finish(ctx context.Context) (report, error) {
	if err := terminate(l.from.sandbox.CgroupPath(), "load"); err != nil {
		return report{}, err
	}
	select {
	case <-l.process.Done():
	case <-ctx.Done():
		return report{}, ctx.Err()
	}
	lines := l.out.lines()
	var r report
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		return r, fmt.Errorf("read the load's report: %w: %s", err, lines)
	}
	if r.Failed > 0 || r.OK == 0 {
		return r, fmt.Errorf("of the requests from %s %d succeeded and %d failed, the first with %v", l.from.name, r.OK, r.Failed, r.Errors)
	}
	return r, nil
}

// underTraffic runs do while both nodes' shoppers call url, for at least as long as given, and fails if a single request
// failed.
func (d *demo) underTraffic(ctx context.Context, url string, least time.Duration, do func() error) error {
	enough := time.After(least)
	var loads []*load
	for i := range d.nodes {
		l, err := d.startLoad(ctx, d.find("shopper", i), url)
		if err != nil {
			return err
		}
		loads = append(loads, l)
	}
	if err := do(); err != nil {
		return err
	}
	select {
	case <-enough:
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, l := range loads {
		r, err := l.finish(ctx)
		if err != nil {
			return err
		}
		d.detail("%s on %s: %d requests to %s, 0 failed, p50 %s, p99 %s, slowest %s, answered by %d pods", l.from.name, l.from.node.name,
			r.OK, url, micros(r.P50), micros(r.P99), micros(r.Max), len(r.Pods))
	}
	return nil
}

func (d *demo) scale(ctx context.Context) error {
	template := d.find("catalog", 0).template
	return d.underTraffic(ctx, "http://catalog/", 6*time.Second, func() error {
		for i := 2; i < 6; i++ {
			p := &pod{namespace: "shop", name: fmt.Sprintf("catalog-%d", i), template: template}
			if err := d.addPod(ctx, p, d.nodes[i%len(d.nodes)]); err != nil {
				return err
			}
			d.detail("catalog-%d is up at %s on %s", i, p.addr, p.node.name)
		}
		for i := 5; i >= 1; i-- {
			if err := d.removePod(ctx, d.find("catalog", i)); err != nil {
				return err
			}
			d.detail("catalog-%d is gone", i)
		}
		return nil
	})
}

func (d *demo) restartAgent(ctx context.Context) error {
	victim := d.nodes[0]
	return d.underTraffic(ctx, "http://web/", 8*time.Second, func() error {
		if err := victim.killAgent(ctx); err != nil {
			return err
		}
		a, err := fetch(ctx, d.client.NetNS, netip.AddrPortFrom(victim.addr, webNodePort))
		if err != nil {
			return fmt.Errorf("ask %s for its node port without its agent: %w", victim.name, err)
		}
		d.detail("the agent of %s is dead; its node goes on, and so does its node port, answered by %s", victim.name, a.Pod)
		// The agent stays away long enough for many requests to need its answers.
		select {
		case <-time.After(2 * time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
		began := time.Now()
		if err := victim.startAgent(ctx); err != nil {
			return err
		}
		d.detail("a new agent is ready after %.1f s", time.Since(began).Seconds())
		return nil
	})
}

// measure compares connecting to a Service with connecting to its only pod, by turns in one run.
func (d *demo) measure(ctx context.Context) error {
	target := d.find("stock", 0)
	table := &bytes.Buffer{}
	w := tabwriter.NewWriter(table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "from\twhat\tp50\tp99\tagainst the pod's address, p50")
	for i := range d.nodes {
		from := d.find("shopper", i)
		out, err := from.exec(ctx, "latency", "--rounds", "2000", "--direct", target.addr.String()+":8080",
			"--service", "stock.shop.svc.cluster.local:80", "--name", "stock.shop.svc.cluster.local.")
		if err != nil {
			return err
		}
		type figures struct {
			P50 int64 `json:"p50_ns"`
			P99 int64 `json:"p99_ns"`
		}
		var r struct{ Direct, Service, Lookup figures }
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			return fmt.Errorf("read the measurement: %w: %s", err, out)
		}
		where := "same node"
		if from.node != target.node {
			where = "other node"
		}
		fmt.Fprintf(w, "%s\tconnect, pod address\t%s\t%s\t\n", where, micros(r.Direct.P50), micros(r.Direct.P99))
		fmt.Fprintf(w, "%s\tconnect, ClusterIP\t%s\t%s\t%+.2f us\n", where, micros(r.Service.P50), micros(r.Service.P99),
			float64(r.Service.P50-r.Direct.P50)/1000)
		fmt.Fprintf(w, "%s\tname lookup\t%s\t%s\t\n", where, micros(r.Lookup.P50), micros(r.Lookup.P99))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(table.String()) {
		d.detail("%s", strings.TrimRight(line, "\n"))
	}
	return nil
}

func micros(ns int64) string { return fmt.Sprintf("%.1f us", float64(ns)/1000) }
