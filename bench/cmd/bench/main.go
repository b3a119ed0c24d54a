// Command bench measures nearpath beside its peers and checks what it promises. See docs/benchmarks.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/nearpath/nearpath/bench/autopath"
	"github.com/nearpath/nearpath/bench/cni"
	"github.com/nearpath/nearpath/bench/dns"
	"github.com/nearpath/nearpath/bench/dnslab"
	"github.com/nearpath/nearpath/bench/externaldns"
	"github.com/nearpath/nearpath/bench/measure"
	"github.com/nearpath/nearpath/bench/plots"
	"github.com/nearpath/nearpath/bench/podruntime"
	"github.com/nearpath/nearpath/bench/policy"
	"github.com/nearpath/nearpath/bench/service"
	"github.com/nearpath/nearpath/bench/shaping"
	"github.com/nearpath/nearpath/bench/tcp"
	"github.com/nearpath/nearpath/test/netlab"
)

// version is set at link time.
var version = "unknown"

// Exit statuses: 0 ok, 1 failure, a run that does not count and a missed budget included, 2 wrong use.
const (
	exitFailure = 1
	exitUsage   = 2
)

var errUsage = errors.New("use: bench run|check [flags]; bench run -h and bench check -h list them")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // the second signal ends a process that does not get done with the first
	err := run(ctx, os.Args[1:], os.Stdout)
	switch {
	case err == nil:
		return
	case errors.Is(err, flag.ErrHelp):
		os.Exit(exitUsage)
	}
	fmt.Fprintln(os.Stderr, "error:", err)
	if errors.Is(err, errUsage) {
		os.Exit(exitUsage)
	}
	os.Exit(exitFailure)
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errUsage
	}
	switch args[0] {
	case "run":
		return runBenchmarks(ctx, args[1:], out)
	case "check":
		return check(args[1:], out)
	case "runtime": // what run starts on nodes
		return podruntime.Serve(os.Stdin, os.Stdout)
	}
	for _, roles := range []map[string]func(io.Reader, io.Writer) error{service.Roles(), dnslab.Roles(), policy.Roles(), {tcp.Role: tcp.Serve}} {
		if serve, ok := roles[args[0]]; ok {
			return serve(os.Stdin, os.Stdout)
		}
	}
	return errUsage
}

// benchmarks are those there are.
func benchmarks() []measure.Benchmark {
	return []measure.Benchmark{autopath.Benchmark(), cni.Benchmark(), dns.Benchmark(), externaldns.Benchmark(), policy.Benchmark(), service.Benchmark(), shaping.Benchmark()}
}

func chosen(name string) ([]measure.Benchmark, error) {
	var names []string
	for _, b := range benchmarks() {
		if b.Name == name {
			return []measure.Benchmark{b}, nil
		}
		names = append(names, b.Name)
	}
	if name == "all" {
		return benchmarks(), nil
	}
	return nil, fmt.Errorf("%w: no benchmark is called %q: there are %s, and all", errUsage, name, strings.Join(names, ", "))
}

func runBenchmarks(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("bench run", flag.ContinueOnError)
	name := flags.String("bench", "all", "the `name` of a benchmark, or all")
	quick := flags.Bool("quick", false, "fewer rounds")
	bin := flags.String("bin", "bin", "`directory` with the project's programs")
	peers := flags.String("peers", "", "`directory` with the programs of the peers")
	results := flags.String("out", "bench/out", "`directory` for raw samples")
	page := flags.String("docs", "", "`file` to write the figures into, with pictures in the directory of its name; empty: none")
	if err := flags.Parse(args); err != nil {
		return err
	}
	list, err := chosen(*name)
	if err != nil {
		return err
	}
	if err := netlab.RequireRoot(); err != nil {
		return err
	}
	env := measure.Env{Quick: *quick, Version: version, Progress: out}
	// The programs also run on nodes, from other directories.
	if env.Bin, err = filepath.Abs(*bin); err != nil {
		return err
	}
	if env.Peers, err = filepath.Abs(*peers); err != nil {
		return err
	}
	for _, b := range list {
		if err := runOne(ctx, b, env, *results, *page); err != nil {
			return err
		}
	}
	return nil
}

var errDrift = errors.New("the run does not count: the floor drifted, so something else on the machine changed while it was measured; run it again")

func runOne(ctx context.Context, b measure.Benchmark, env measure.Env, dir, page string) error {
	r, err := measure.Run(ctx, b, env)
	if err != nil {
		return err
	}
	path, err := r.Write(dir)
	if err != nil {
		return err
	}
	if err := r.Print(env.Progress); err != nil {
		return err
	}
	fmt.Fprintf(env.Progress, "\nraw samples are in %s\n", path)
	if len(r.Drifts()) > 0 {
		return errDrift
	}
	if page == "" {
		return nil
	}
	return publish(r, page)
}

// publish puts the result's figures into the page, and its picture into the directory beside it that has the page's name.
func publish(r measure.Result, page string) error {
	pictures := strings.TrimSuffix(page, filepath.Ext(page))
	picture, err := plots.Write(r, pictures)
	if err != nil {
		return err
	}
	link, err := filepath.Rel(filepath.Dir(page), picture)
	if err != nil {
		return err
	}
	return r.WriteFigures(page, filepath.ToSlash(link))
}

var errMissed = errors.New("not every budget is kept")

func check(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("bench check", flag.ContinueOnError)
	results := flags.String("out", "bench/out", "`directory` with raw samples")
	file := flags.String("budgets", "bench/budgets.yaml", "`file` with the budgets")
	if err := flags.Parse(args); err != nil {
		return err
	}
	budgets, err := measure.ReadBudgets(*file)
	if err != nil {
		return err
	}
	kept, err := measure.Check(out, budgets, *results)
	if err == nil && !kept {
		err = errMissed
	}
	return err
}
