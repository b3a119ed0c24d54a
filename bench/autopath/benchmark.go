// Package autopath measures what it costs that pods search: lookups of a name outside the cluster for the processors' time, on the
// node and by central DNS, beside a stock CoreDNS with and without its own autopath, and what the pods of a large cluster take
// in memory.
package autopath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/nearpath/nearpath/bench/dnslab"
	"github.com/nearpath/nearpath/bench/measure"
)

// Benchmark is what searches cost.
func Benchmark() measure.Benchmark {
	return measure.Benchmark{Name: "autopath", What: "searches of pods, beside CoreDNS with and without its autopath", Setup: setup}
}

// prefix begins the name of everything the benchmark makes on the machine.
const prefix = "nearpath-bench-autopath"

// patience is for one answer of a server that may not be there yet.
const patience = 200 * time.Millisecond

// A contender answers searches.
type contender struct {
	name   string
	role   measure.Role
	server netip.AddrPort // as the pod asks it
	pid    int
	// questions are those that a lookup takes: of a pod that searches itself, two of each domain and of the name itself.
	questions int
}

// The contenders, as figures call them.
const (
	nameNode    = "nearpath, on the node"
	nameCentral = "nearpath, central"
	nameStock   = "CoreDNS, autopath"
	namePlain   = "CoreDNS"
)

const (
	searched = 2 // for both address types
	itself   = 2 * 4
)

// A program is a CoreDNS and what its Corefile says of the cluster.
type program struct {
	contender
	binary   string // in the directory of the project's programs, or else in that of the peers
	peer     bool
	autopath string // the line
	pods     string // the mode of the plugin kubernetes
}

// programs are the central ones: ours, the stock one with its autopath, and without. Ports keep them apart.
func programs() []program {
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(dnslab.NodeDNS, port) }
	return []program{
		{contender{nameCentral, measure.Subject, at(5300), 0, searched}, "coredns", false, "autopath @kubernetes", "insecure"},
		{contender{nameStock, measure.Peer, at(5301), 0, searched}, "stockpeer", true, "autopath @kubernetes", "verified"},
		{contender{namePlain, measure.Peer, at(5302), 0, itself}, "stockpeer", true, "", "insecure"},
	}
}

// corefile is that of a cluster's DNS (kubernetes, cluster/addons/dns/coredns), but for reload and what counts and checks.
func (p program) corefile(api string) string {
	return fmt.Sprintf(`.:%d {
	bind %s
	errors
	%s
	kubernetes %s in-addr.arpa ip6.arpa {
		endpoint %s
		pods %s
		fallthrough in-addr.arpa ip6.arpa
		ttl 30
	}
	forward . %s
	cache 30
	loadbalance
}
`, p.server.Port(), dnslab.NodeDNS, p.autopath, dnslab.Domain, api, p.pods, dnslab.UpstreamAddr)
}

type bed struct {
	*dnslab.Lab
	env        measure.Env
	contenders map[string]*contender
	apis       []*http.Server
	cold       int // names that nobody has asked for begin with numbers from here
	sizes      map[string]size
}

func setup(ctx context.Context, env measure.Env) (*measure.Bed, error) {
	b := &bed{env: env, contenders: map[string]*contender{}, sizes: map[string]size{}}
	if err := b.build(ctx); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return &measure.Bed{Series: b.all(), Close: b.close}, nil
}

func (b *bed) close() error {
	errs := []error{b.Close()}
	for _, api := range b.apis {
		errs = append(errs, api.Close())
	}
	return errors.Join(errs...)
}

func (b *bed) build(ctx context.Context) (err error) {
	if b.Lab, err = dnslab.Start(ctx, prefix, b.env.Bin); err != nil {
		return err
	}
	b.contenders[nameNode] = &contender{nameNode, measure.Subject, netip.AddrPortFrom(dnslab.ClusterDNS, 53), b.Agent, searched}
	api, err := b.serveAPI(smallAPI, append(basics(), podOf(0, b.Pod)))
	if err != nil {
		return err
	}
	for _, p := range programs() {
		c := p.contender
		if c.pid, _, err = b.start(ctx, p, api, "small"); err != nil {
			return err
		}
		b.contenders[c.name] = &c
	}
	return b.warm(ctx)
}

// The APIs' addresses on the node: of a cluster with one pod, and of a large one.
const (
	smallAPI = "127.0.0.1:7081"
	largeAPI = "127.0.0.1:7082"
)

// serveAPI serves objects as a Kubernetes API on the node, until the bed is closed. Pods come last.
func (b *bed) serveAPI(at string, objects []runtime.Object) (url string, err error) {
	api, err := newAPI(objects)
	if err != nil {
		return "", err
	}
	var l net.Listener
	err = b.Node.NetNS().Do(func() (err error) {
		l, err = net.Listen("tcp", at)
		return err
	})
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: api, ReadHeaderTimeout: time.Minute}
	b.apis = append(b.apis, server)
	go func() { _ = server.Serve(l) }() // until close
	return "http://" + at, nil
}

// start starts a central server and returns when a lookup takes the questions it should: its pods are known then.
func (b *bed) start(ctx context.Context, p program, api, of string) (pid int, s *dnslab.Server, err error) {
	name := fmt.Sprintf("%s-%d-%s", p.binary, p.server.Port(), of)
	file := filepath.Join(b.Node.Dir(), name+".Corefile")
	if err := os.WriteFile(file, []byte(p.corefile(api)), 0o600); err != nil {
		return 0, nil, err
	}
	binary := filepath.Join(b.env.Bin, p.binary)
	if p.peer {
		binary = filepath.Join(b.env.Peers, p.binary)
	}
	c := p.contender
	s, err = b.Serve(ctx, name, func() error {
		_, err := b.lookUp(ctx, &c, dnslab.Searches{Names: b.fresh(1), Times: 1, Patience: patience})
		return err
	}, binary, "-conf", file)
	if err != nil {
		return 0, nil, err
	}
	pid, err = s.PID()
	return pid, s, err
}

// lookUp has the pod look names up, and wants what that takes to be what it should.
func (b *bed) lookUp(ctx context.Context, c *contender, s dnslab.Searches) (done dnslab.Searched, err error) {
	s.Server, s.Search, s.Ndots = c.server, dnslab.Search, dnslab.Ndots
	if err := b.Client.Ask(ctx, dnslab.VerbSearch, s, &done); err != nil {
		return done, err
	}
	if done.Lookups == 0 || done.Questions != c.questions*done.Lookups {
		err = fmt.Errorf("%s took %d questions for %d lookups, want %d for each", c.name, done.Questions, done.Lookups, c.questions)
	}
	return done, err
}

// warm looks the hot name up until the kernel answers all of it.
func (b *bed) warm(ctx context.Context) error {
	return b.Node.Await(ctx, func() string {
		by, err := b.AnsweredByKernel(ctx, func() error {
			_, err := b.lookUp(ctx, b.contenders[nameNode], dnslab.Searches{Names: []string{hot}, Times: 1})
			return err
		})
		switch {
		case err != nil:
			return err.Error()
		case by != searched:
			return fmt.Sprintf("the kernel answered %d of %d questions for %s", by, searched, hot)
		}
		return ""
	})
}

// fresh are names that nobody has asked for.
func (b *bed) fresh(n int) []string {
	names := make([]string, n)
	for i := range names {
		b.cold++
		names[i] = fmt.Sprintf("www%d.cold.example", b.cold)
	}
	return names
}

// rounds is how many there are: the first number, or the second one in a quick run.
func (b *bed) rounds(all, quick int) int {
	if b.env.Quick {
		return quick
	}
	return all
}

// basics are what every cluster has.
func basics() []runtime.Object {
	var objects []runtime.Object
	for _, name := range []string{dnslab.Namespace, "kube-system"} {
		n := new(corev1.Namespace)
		n.Name = name
		objects = append(objects, n)
	}
	s := new(corev1.Service)
	s.Namespace, s.Name = "kube-system", "kube-dns"
	s.Spec.ClusterIP = dnslab.ClusterDNS.String()
	s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	s.Spec.Ports = []corev1.ServicePort{{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}}
	return append(objects, s)
}
