// Vm runs tests under Debian's older kernels, in QEMU. Without -pkg it is the kernel lane: every kernel, every package
// of the table, and one table of results. With -pkg it runs the tests of those packages and shows their output.
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
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// memory of a guest, in MiB. Its root file system is in there, too.
const memory = 1536

// boot is the time a guest has for what is not a test.
const boot = 60 * time.Second

type options struct {
	kernels  []kernel
	packages []testPackage
	run      string
	only     map[string]string // which tests of a package, by its directory
	extra    []string
	update   bool
	show     bool // all output of the tests
	jobs     int  // guests at a time
	logs     string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	ok, err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
	}
	if err != nil || !ok {
		stop()
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("vm", flag.ContinueOnError)
	names := flags.String("kernel", "all", "kernels, separated by commas: 5.10, 6.1, 6.12")
	pkgs := flags.String("pkg", "", "packages like ./cni, separated by commas; also those that are not in the table")
	flags.StringVar(&o.run, "run", "", "run only tests that match this expression, as in go test")
	programs := flags.Bool("programs", false, "give the tests of -pkg nearpath's own programs, as NEARPATH_BIN")
	flags.BoolVar(&o.update, "update", false, "get the newest builds of the kernels, also when the cache has some")
	flags.StringVar(&o.logs, "logs", "", "directory for console and output of every guest (default: vm-logs in the cache)")
	flags.IntVar(&o.jobs, "jobs", 1, "guests at a time")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.extra = flags.Args()
	for _, k := range kernels {
		if *names == "all" || slices.Contains(strings.Split(*names, ","), k.name) {
			o.kernels = append(o.kernels, k)
		}
	}
	if *names != "all" && len(o.kernels) != len(strings.Split(*names, ",")) {
		return o, fmt.Errorf("-kernel %s: there are 5.10, 6.1 and 6.12", *names)
	}
	if *pkgs == "" {
		o.packages, o.only = packages, lane{packages, features}.tests()
		return o, nil
	}
	o.show = true
	for dir := range strings.SplitSeq(*pkgs, ",") {
		dir = filepath.ToSlash(filepath.Clean(dir))
		p := testPackage{dir: dir, seconds: 240, needsPrograms: *programs}
		if i := slices.IndexFunc(packages, func(p testPackage) bool { return p.dir == dir }); i >= 0 {
			p = packages[i]
		}
		o.packages = append(o.packages, p)
	}
	return o, nil
}

func run(ctx context.Context, args []string, to io.Writer) (bool, error) {
	o, err := parse(args)
	if err != nil {
		return false, err
	}
	if err := missingPackages(); err != nil {
		return false, err
	}
	cache, err := cacheDir()
	if err != nil {
		return false, err
	}
	if o.logs == "" {
		o.logs = filepath.Join(cache, "vm-logs")
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(cache, "kernels"), 0o755), os.MkdirAll(o.logs, 0o755)); err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "nearpath-vm-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	start := time.Now()
	made, err := compile(ctx, dir, o.packages)
	if err != nil {
		return false, err
	}
	fmt.Fprintf(to, "vm: compiled %d packages in %.0f s\n", len(made.tests), time.Since(start).Seconds())
	unlock, err := lock(ctx, filepath.Join(cache, "vm.lock"), to)
	if err != nil {
		return false, err
	}
	defer unlock()
	results, err := o.guests(ctx, cache, dir, made, to)
	if err != nil {
		return false, err
	}
	if !o.show {
		return lane{packages, features}.report(to, results), nil
	}
	ok := true
	for _, r := range results {
		r.expect(o.packages)
		ok = summary(to, r) && ok
	}
	return ok, nil
}

// guests runs the tests on every kernel, one after the other: a guest emulates both its processors, and two at a time, on a machine
// that has two, have too little of them for tests that ask at a pace.
func (o options) guests(ctx context.Context, cache, dir string, made made, to io.Writer) ([]*result, error) {
	found := make([]installed, 0, len(o.kernels))
	for _, k := range o.kernels { // before the first guest: what fails here leaves none behind
		at, err := k.install(ctx, filepath.Join(cache, "kernels"), o.update)
		if err != nil {
			return nil, err
		}
		found = append(found, at)
	}
	results := make([]*result, len(found))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(1, o.jobs))
	for i, k := range found {
		fs := rootFS{made: made, kernel: k, run: o.run, only: o.only, extra: o.extra}
		group.Go(func() (err error) {
			results[i], err = o.boot(ctx, fs, dir, to)
			return err
		})
	}
	return results, group.Wait()
}

// cacheDir is where all lanes keep what they have built or downloaded.
func cacheDir() (string, error) {
	if dir := os.Getenv("NEARPATH_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".cache", "nearpath"), err
}
