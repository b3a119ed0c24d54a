package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/nearpath/nearpath/internal/service/model"
	"github.com/nearpath/nearpath/test/netlab"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A kubeProxy is the real one, as test/diff/kubeproxy runs it.
type kubeProxy struct {
	node *netlab.NetNS
	in   io.WriteCloser
	out  *json.Decoder
}

// newKubeProxySide starts kube-proxy in a mode in a new copy of the lab.
func newKubeProxySide(lab *netlab.Lab, o options, mode string) (*side, error) {
	dialect := map[string]model.Dialect{"nftables": model.NFTables, "iptables": model.IPTables}[mode]
	n, err := newNetwork(lab, mode[:3])
	if err != nil {
		return nil, err
	}
	k := &kubeProxy{node: n.places[placeNode]}
	s := &side{proxy: k, name: "kube-proxy " + mode, dialect: dialect}
	args := []string{
		"-serve", "-mode", mode, "-node", nodeName, "-node-ips", join(nodeAddrs[:2]), "-pod-links", "vp",
		"-nodeport-addresses", strings.Join(o.nodePorts, ","),
	}
	// What it cannot write is an error here; its log is for the curious.
	log, err := os.Create(filepath.Join(lab.Dir(), mode+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command("nsenter", append([]string{"--net=" + k.node.Path(), "--", o.kubeProxy}, args...)...)
	cmd.Stderr = log
	in, out, err := pipes(lab, cmd)
	if err != nil {
		return nil, err
	}
	k.in, k.out = in, json.NewDecoder(bufio.NewReader(out))
	return s, prepareSide(lab, s, n, nil)
}

func join(list []netip.Addr) string {
	texts := make([]string, len(list))
	for i, a := range list {
		texts[i] = a.String()
	}
	return strings.Join(texts, ",")
}

func (k *kubeProxy) program(w *model.World) error {
	request := struct {
		Replace bool  `json:"replace"`
		Apply   []any `json:"apply"`
	}{true, manifests(w)}
	if err := json.NewEncoder(k.in).Encode(request); err != nil {
		return fmt.Errorf("tell kube-proxy: %w", err)
	}
	var response struct {
		Error string `json:"error"`
	}
	if err := k.out.Decode(&response); err != nil {
		return fmt.Errorf("hear from kube-proxy: %w", err)
	}
	if response.Error != "" {
		return errors.New(response.Error)
	}
	return nil
}

// forget empties the node's conntrack table.
func (k *kubeProxy) forget() error {
	return k.node.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
}

func (k *kubeProxy) close() error { return k.in.Close() }

// manifests are the objects of a world as a cluster has them, what the API server fills in left out.
func manifests(w *model.World) []any {
	var all []any
	if w == nil {
		return []any{}
	}
	for _, svc := range w.Services {
		s := svc.DeepCopy()
		s.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}
		all = append(all, s)
	}
	for _, slice := range w.Slices {
		s := slice.DeepCopy()
		s.TypeMeta = metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}
		all = append(all, s)
	}
	all = append(all, &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: w.Node.Name, Labels: w.Node.Labels},
	})
	cidrs := &networkingv1.ServiceCIDR{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "ServiceCIDR"},
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"},
	}
	for _, cidr := range w.ServiceCIDRs {
		cidrs.Spec.CIDRs = append(cidrs.Spec.CIDRs, cidr.String())
	}
	return append(all, cidrs)
}
