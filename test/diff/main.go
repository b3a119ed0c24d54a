// Diff is the differential test of nearpath against the real kube-proxy. Both serve the same random clusters, each in a
// copy of the same lab of network namespaces; clients of every kind then find out which backends answer where, and whom
// those see. What is different, and no documented deviation, is shrunk to the smallest cluster that shows it and printed.
// What the model of the rows says is compared, too, with all of them.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// proberVerb is the argument that makes this program a prober.
const proberVerb = "prober"

type options struct {
	clusters  int
	seed      int
	services  int
	iptables  int // every how many clusters; 0: none
	kubeProxy string
	patience  time.Duration
	mismatch  int // how many to find before giving up
	shrink    bool
	about     string
	nodePorts []string
	log       io.Writer
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == proberVerb {
		if err := runProber(os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "prober:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	ok, err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "diff:", err)
	}
	if err != nil || !ok {
		stop()
		os.Exit(1)
	}
}

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("diff", flag.ContinueOnError)
	flags.IntVar(&o.clusters, "n", 50, "how many random clusters")
	flags.IntVar(&o.seed, "seed", 1, "of the first cluster; each has the next one")
	flags.IntVar(&o.services, "services", 4, "at most so many Services in a cluster")
	flags.IntVar(&o.iptables, "iptables", 4, "compare with iptables mode, too, in every so many clusters; 0: never")
	flags.StringVar(&o.kubeProxy, "kubeproxy", os.Getenv("NEARPATH_KUBEPROXY"), "test/diff/kubeproxy, built")
	flags.DurationVar(&o.patience, "patience", 300*time.Millisecond, "how long to wait for an answer at first; what then differs is asked again, and waited for five times as long")
	flags.IntVar(&o.mismatch, "mismatches", 3, "give up after so many clusters with mismatches")
	flags.BoolVar(&o.shrink, "shrink", true, "print what is wrong in the smallest cluster that shows it; else only count it")
	flags.StringVar(&o.about, "about", "", "only differences with this in their kind, as the summary names kinds")
	only := flags.String("nodeport-addresses", "all", "one setting, CIDRs separated by commas or primary, instead of the three that are tried in turn")
	log := flags.String("log", "", "file for nearpath's log")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.kubeProxy == "" {
		return o, fmt.Errorf("-kubeproxy is missing: sudo make test-diff")
	}
	if *only != "all" {
		o.nodePorts = strings.Split(*only, ",")
	}
	o.log = io.Discard
	if *log != "" {
		if o.log, err = os.Create(*log); err != nil {
			return o, err
		}
	}
	return o, nil
}

// nodePortSettings are those that are tried in turn: kube-proxy's default, the primary addresses, and others.
var nodePortSettings = [][]string{nil, {"primary"}, {"192.0.2.9/32", "127.0.0.0/8", "fd02::9/128"}}

func run(ctx context.Context, args []string, out io.Writer) (ok bool, err error) {
	o, err := parse(args)
	if err != nil {
		return false, err
	}
	settings := nodePortSettings
	if o.nodePorts != nil {
		settings = [][]string{o.nodePorts}
	}
	t, started := newTally(), time.Now()
	for i, setting := range settings {
		part := o
		part.nodePorts = setting
		part.seed = o.seed + i*o.clusters/len(settings)
		part.clusters = (i+1)*o.clusters/len(settings) - i*o.clusters/len(settings)
		if err := runPart(ctx, part, t, out); err != nil {
			return false, err
		}
		if t.failed >= o.mismatch || ctx.Err() != nil {
			break
		}
	}
	t.print(out, time.Since(started))
	return t.failed == 0 && ctx.Err() == nil, nil
}
