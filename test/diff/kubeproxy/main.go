// Kubeproxy programs the network namespace it is started in with the rules that the real kube-proxy makes of manifests.
// It holds kube-proxy's own proxiers of one mode, without an API server, and applies what it is given in one synchronous
// sync. What it wrote stays when it ends, as with kube-proxy.
//
// With -manifests it reads Services, EndpointSlices, Nodes and ServiceCIDRs from a file, a directory or, named "-",
// standard input, and tells how long the sync took. With -serve it then takes Requests, one JSON document each, on
// standard input and answers each with one line of JSON, until its input ends.
//
// It needs root, and nft or iptables with ip6tables in PATH.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"k8s.io/klog/v2"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kubeproxy:", err)
		os.Exit(1)
	}
}

type options struct {
	proxy     proxyConfig
	manifests string
	serve     bool
}

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("kubeproxy", flag.ContinueOnError)
	flags.StringVar(&o.proxy.mode, "mode", modeNFTables, "nftables or iptables")
	flags.StringVar(&o.proxy.node, "node", "node", "name of this node, which EndpointSlices name and whose labels count")
	nodeIPs := flags.String("node-ips", "", "primary addresses of the node, one of each family, separated by commas")
	nodePorts := flags.String("nodeport-addresses", "", "CIDRs, or primary; empty means kube-proxy's own default: primary for nftables, every address for iptables")
	podCIDRs := flags.String("pod-cidrs", "", "sources in these are pods of this node and not masqueraded, one CIDR of each family")
	flags.StringVar(&o.proxy.podLinks, "pod-links", "", "packets that come by links with this name prefix are of pods of this node; instead of -pod-cidrs")
	flags.BoolVar(&o.proxy.masqueradeAll, "masquerade-all", false, "masquerade whatever goes to a Service")
	flags.StringVar(&o.manifests, "manifests", "", "YAML or JSON: a file, a directory, or - for standard input")
	flags.BoolVar(&o.serve, "serve", false, "take requests on standard input")
	verbosity := flags.String("v", "0", "verbosity of kube-proxy's log, which goes to standard error")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.proxy.mode != modeNFTables && o.proxy.mode != modeIPTables {
		return o, fmt.Errorf("-mode %s: there are nftables and iptables", o.proxy.mode)
	}
	if o.serve && o.manifests == "-" || !o.serve && o.manifests == "" {
		return o, errors.New("give -manifests, or -serve, or -serve with -manifests from a file")
	}
	for _, text := range list(*nodeIPs) {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return o, fmt.Errorf("-node-ips: %w", err)
		}
		o.proxy.nodeIPs = append(o.proxy.nodeIPs, addr)
	}
	if len(o.proxy.nodeIPs) == 0 {
		return o, errors.New("-node-ips is missing")
	}
	o.proxy.nodePortAddresses, o.proxy.podCIDRs = list(*nodePorts), list(*podCIDRs)
	logFlags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(logFlags)
	return o, logFlags.Set("v", *verbosity)
}

func list(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' })
}

func run(args []string, in io.Reader, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	p, err := newProxy(o.proxy)
	if err != nil {
		return err
	}
	if o.manifests != "" {
		objects, err := readManifests(o.manifests, in)
		if err != nil {
			return err
		}
		took, err := p.sync(change{replace: true, apply: objects})
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "{\"seconds\": %.6f, \"objects\": %d}\n", took.Seconds(), len(objects))
	}
	if !o.serve {
		return nil
	}
	return serve(p, in, out)
}

// A Request changes what is programmed.
type Request struct {
	// Replace says that Apply is all there is; else what is not named stays as it is.
	Replace bool `json:"replace,omitempty"`
	// Apply has objects with apiVersion and kind, as in manifests.
	Apply []json.RawMessage `json:"apply,omitempty"`
	// Delete has objects of which kind, namespace and name count.
	Delete []json.RawMessage `json:"delete,omitempty"`
}

// A Response is the answer to a Request.
type Response struct {
	// Seconds is from the first object told to the proxiers to the last rule in the kernel, both families.
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
}

func serve(p *kubeProxy, in io.Reader, out io.Writer) error {
	requests, responses := json.NewDecoder(bufio.NewReaderSize(in, 1<<20)), json.NewEncoder(out)
	for {
		var req Request
		if err := requests.Decode(&req); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read a request: %w", err)
		}
		var resp Response
		c, err := req.change()
		if err == nil {
			took, syncErr := p.sync(c)
			resp.Seconds, err = took.Seconds(), syncErr
		}
		if err != nil {
			resp.Error = err.Error()
		}
		if err := responses.Encode(resp); err != nil {
			return err
		}
	}
}

func (r Request) change() (c change, err error) {
	c.replace = r.Replace
	if c.apply, err = decodeAll(r.Apply); err != nil {
		return c, err
	}
	c.remove, err = decodeAll(r.Delete)
	return c, err
}
