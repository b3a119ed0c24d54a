package externaldns

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nearpath/nearpath/bench/measure"
	"github.com/nearpath/nearpath/externaldns"
	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
)

const namespace = "shop"

func host(service string) string { return service + "." + zoneName }

// serviceOf asks for a name as both programs understand it.
func serviceOf(name, address string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, Annotations: map[string]string{"external-dns.alpha.kubernetes.io/hostname": host(name)},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: address, ClusterIPs: []string{address}, Ports: []corev1.ServicePort{{Port: 80}},
		},
	}
}

// kubeconfig leads to the site's API.
func (s *site) kubeconfig() (path string, err error) {
	path = filepath.Join(s.dir, "kubeconfig")
	return path, os.WriteFile(path, fmt.Appendf(nil, `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
clusters: [{name: c, cluster: {server: %q}}], users: [{name: u, user: {}}]}
`, s.apiURL), 0o600)
}

// nearpath is ours.
type nearpath struct{}

func (nearpath) name() string       { return "nearpath" }
func (nearpath) role() measure.Role { return measure.Subject }
func (nearpath) perName() int       { return 1 }

func (nearpath) own(s *site, service, address string) error {
	_, err := s.cloud.PrivateZone().Add(aliyun.ZoneRecord{
		ZoneID: zoneID, RR: service, Type: "A", Value: address, TTL: 60,
		Remark: externaldns.Owner(owner).Remark(externaldns.Object{Kind: "Service", Namespace: namespace, Name: service}),
	})
	return err
}

func (nearpath) command(s *site, env measure.Env, sources []string) (*exec.Cmd, error) {
	kubeconfig, err := s.kubeconfig()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(s.dir, "config.yaml")
	text := fmt.Sprintf(`ownerID: %s
policy: sync
kubeconfig: %s
socket: %s
listen: 127.0.0.1:0
names: {sources: [%s], publishInternal: true}
cloud: {region: %s, pvtzEndpoint: %s, accessKeyID: %s, accessKeySecret: %s}
`, owner, kubeconfig, filepath.Join(s.dir, "sock"), strings.Join(sources, ", "), region, s.cloudL.Addr(), sim.DefaultAccessKey, sim.DefaultAccessSecret)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return exec.Command(filepath.Join(env.Bin, "nearpath"), "externaldns", "--config", config), nil
}

// externalDNS is sigs.k8s.io/external-dns with its alibabacloud provider, told to follow events and else by its defaults.
type externalDNS struct{}

func (externalDNS) name() string       { return "external-dns" }
func (externalDNS) role() measure.Role { return measure.Peer }
func (externalDNS) perName() int       { return 2 } // the second one says whose the first is

func (externalDNS) own(s *site, service, address string) error {
	for _, r := range []aliyun.ZoneRecord{
		{RR: service, Type: "A", Value: address},
		{RR: "a-" + service, Type: "TXT", Value: fmt.Sprintf(`"heritage=external-dns,external-dns/owner=%s,external-dns/resource=service/%s/%s"`, owner, namespace, service)},
	} {
		r.ZoneID, r.TTL = zoneID, 60
		if _, err := s.cloud.PrivateZone().Add(r); err != nil {
			return err
		}
	}
	return nil
}

func (externalDNS) command(s *site, env measure.Env, sources []string) (*exec.Cmd, error) {
	kubeconfig, err := s.kubeconfig()
	if err != nil {
		return nil, err
	}
	vendor, err := s.pretend()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(s.dir, "alibaba.yaml")
	text := fmt.Sprintf("regionId: %s\naccessKeyId: %s\naccessKeySecret: %s\nvpcId: %s\n", region, sim.DefaultAccessKey, sim.DefaultAccessSecret, sim.DefaultVPC)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	args := []string{
		"--provider=alibabacloud", "--alibaba-cloud-zone-type=private", "--alibaba-cloud-config-file=" + config, "--kubeconfig=" + kubeconfig,
		"--publish-internal-services", "--registry=txt", "--txt-owner-id=" + owner, "--policy=sync", "--events", "--metrics-address=127.0.0.1:0",
		"--domain-filter=" + zoneName,
	}
	for _, source := range sources {
		args = append(args, "--source="+source)
	}
	cmd := exec.Command(filepath.Join(env.Peers, "external-dns"), args...)
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+vendor.certificate, "HTTPS_PROXY="+vendor.proxy)
	return cmd, nil
}
