package autopath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/kubernetes"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/miekg/dns"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	client "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/nearpath/nearpath/autopath"
)

var log = clog.NewWithPlugin(name)

// resolvConf is where CoreDNS in a cluster sees what its node searches: its pods have dnsPolicy Default.
const resolvConf = "/etc/resolv.conf"

// ownIndex is whether the pods of a plugin's cluster are better known by our own index: of `kubernetes`, whose index needs
// `pods verified` and gives an address to pods that have left it, and of plugins that have none.
func ownIndex(h plugin.Handler) bool {
	if _, ok := h.(*kubernetes.Kubernetes); ok {
		return true
	}
	_, ok := h.(autoPather)
	return !ok
}

// podIndex returns what follows the pods of the cluster a plugin serves.
func podIndex(cfg config, h plugin.Handler, m *counters) (*follower, error) {
	domain, err := clusterDomain(cfg, h)
	if err != nil {
		return nil, err
	}
	rest, err := restConfig(cfg, h)
	if err != nil {
		return nil, err
	}
	api, err := client.NewForConfig(rest)
	if err != nil {
		return nil, fmt.Errorf("configure the Kubernetes client for %s: %w", rest.Host, err)
	}
	search := autopath.Cluster{Domain: domain, Host: hostSearch(cfg, domain), Ndots: autopath.ClusterNdots}
	if cfg.ndots >= 0 {
		search.Ndots = cfg.ndots
	}
	return newFollower(api.CoreV1().Pods(metav1.NamespaceAll), search, m.pods.WithLabelValues(domain)), nil
}

// follow runs as long as the server.
func follow(c *caddy.Controller, f *follower) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = f.Run(ctx) })
	c.OnShutdown(func() error {
		cancel()
		running.Wait()
		return nil
	})
}

// clusterDomain is the domain that kubelet knows, without final dot.
func clusterDomain(cfg config, h plugin.Handler) (string, error) {
	if cfg.domain != "" {
		return cfg.domain, nil
	}
	zones := []string(cfg.zones)
	if k, ok := h.(*kubernetes.Kubernetes); ok {
		zones = k.Zones
	}
	for _, zone := range zones {
		zone = dns.CanonicalName(zone)
		if zone != "." && !dns.IsSubDomain("in-addr.arpa.", zone) && !dns.IsSubDomain("ip6.arpa.", zone) {
			return strings.TrimSuffix(zone, "."), nil
		}
	}
	return "", errors.New("the cluster's domain is not known: name it before @, or with the property domain")
}

// hostSearch is what nodes search: what the Corefile says, or else what our own does, outside the cluster.
func hostSearch(cfg config, domain string) []string {
	if cfg.searchSet {
		return cfg.search
	}
	text, err := os.ReadFile(resolvConf)
	if err != nil {
		return nil
	}
	var host []string
	for _, d := range autopath.ParseResolvConf(string(text)).Search {
		if !dns.IsSubDomain(dns.Fqdn(domain), dns.Fqdn(d)) {
			host = append(host, strings.TrimSuffix(d, "."))
		}
	}
	return host
}

// restConfig says how to reach the API: as the Corefile says, else as the plugin `kubernetes` does, else from the service
// account of our pod.
func restConfig(cfg config, h plugin.Handler) (*rest.Config, error) {
	c, err := apiOf(cfg, h)
	if err != nil {
		return nil, err
	}
	c = rest.CopyConfig(c)
	c.ContentType = "application/vnd.kubernetes.protobuf"
	c.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	c.QPS = -1 // one request after the other, and each page of a list is one
	return c, nil
}

func apiOf(cfg config, h plugin.Handler) (*rest.Config, error) {
	if cfg.kubeconfig != nil {
		c, err := clientcmd.BuildConfigFromFlags("", *cfg.kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("read kubeconfig %s: %w", *cfg.kubeconfig, err)
		}
		return c, nil
	}
	k, ok := h.(*kubernetes.Kubernetes)
	switch {
	case ok && k.ClientConfig != nil:
		return k.ClientConfig.ClientConfig()
	case ok && len(k.APIServerList) > 0:
		overrides := &clientcmd.ConfigOverrides{
			ClusterInfo: clientcmdapi.Cluster{Server: k.APIServerList[0], CertificateAuthority: k.APICertAuth},
			AuthInfo:    clientcmdapi.AuthInfo{ClientCertificate: k.APIClientCert, ClientKey: k.APIClientKey},
		}
		return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(&clientcmd.ClientConfigLoadingRules{}, overrides).ClientConfig()
	}
	c, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("read the service account: %w", err)
	}
	return c, nil
}
