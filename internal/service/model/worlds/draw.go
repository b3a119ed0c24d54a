package worlds

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/nearpath/nearpath/internal/service/model"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

// Draw makes a world of what the lab has.
func Draw(t *rapid.T, lab Lab) *model.World {
	d := &drawing{t: t, lab: &lab, claimed: map[string]bool{}}
	w := &model.World{ServiceCIDRs: lab.ServiceCIDRs, Node: lab.Node, NoExternalIPs: d.seldom("no external IPs")}
	w.Node.Labels = map[string]string{}
	if zone := pick(d, "zone", lab.Zones); zone != "" {
		w.Node.Labels[corev1.LabelTopologyZone] = zone
	}
	if len(lab.NodePortAddresses) > 0 {
		w.Node.NodePortAddresses = pick(d, "node port addresses", lab.NodePortAddresses)
	}
	if d.seldom("proxy name") {
		w.ProxyName = "other"
	}
	for i := range rapid.IntRange(1, lab.Services).Draw(t, "services") {
		svc := d.service(i)
		if i > 0 && d.seldom("deleted") {
			w.Deleted = append(w.Deleted, svc)
			continue
		}
		w.Services = append(w.Services, svc)
		w.Slices = append(w.Slices, d.slices(svc)...)
	}
	return w
}

// A drawing is a world that is being drawn.
type drawing struct {
	t       *rapid.T
	lab     *Lab
	claimed map[string]bool // for Certain: what some Service has already
	next    int             // index of the next cluster IP
	given   []netip.Addr    // cluster IPs
}

func pick[T any](d *drawing, what string, of []T) T {
	return of[rapid.IntRange(0, len(of)-1).Draw(d.t, what)]
}

// oneIn is true once in n times, and shrinks to false.
func (d *drawing) oneIn(n int, what string) bool {
	return rapid.IntRange(0, n-1).Draw(d.t, what) == n-1
}

func (d *drawing) often(what string) bool  { return d.oneIn(2, what) }
func (d *drawing) seldom(what string) bool { return d.oneIn(8, what) }

// service draws a Service as an API server would have it.
func (d *drawing) service(i int) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Namespace: pick(d, "namespace", []string{"a", "b"}), Name: fmt.Sprintf("s%d", i), UID: uid(i),
		CreationTimestamp: metav1.NewTime(time.Date(2026, 1, 1, 0, 0, rapid.IntRange(0, 2).Draw(d.t, "created"), 0, time.UTC)),
	}}
	if d.seldom("labelled") {
		svc.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "other"}
	}
	spec := &svc.Spec
	spec.Type = pick(d, "type", []corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer})
	spec.Ports = d.ports(spec)
	if d.seldom("headless") {
		spec.Type, spec.ClusterIP, spec.ClusterIPs = corev1.ServiceTypeClusterIP, corev1.ClusterIPNone, []string{corev1.ClusterIPNone}
		for i := range spec.Ports {
			spec.Ports[i].NodePort = 0
		}
		return svc
	}
	if d.oneIn(16, "external name") {
		spec.Type, spec.ExternalName = corev1.ServiceTypeExternalName, "elsewhere.example"
		if d.often("has been another type") {
			d.clusterIPs(spec)
		}
		return svc
	}
	d.clusterIPs(spec)
	d.policies(spec)
	d.ignored(spec)
	if d.oneIn(3, "external IPs") {
		spec.ExternalIPs = d.vips(spec.Ports)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		d.balance(svc)
	}
	return svc
}

func (d *drawing) clusterIPs(spec *corev1.ServiceSpec) {
	cidrs := d.lab.ServiceCIDRs
	if len(cidrs) > 1 && !d.often("dual") {
		cidrs = []netip.Prefix{pick(d, "family", cidrs)}
	}
	d.next++
	n := d.next
	if n > 1 && !d.lab.Certain && d.seldom("cluster IP of another") {
		n--
	}
	for _, cidr := range cidrs {
		addr := cidr.Masked().Addr()
		for range 10 + n {
			addr = addr.Next()
		}
		spec.ClusterIPs = append(spec.ClusterIPs, addr.String())
		d.given = append(d.given, addr)
	}
	spec.ClusterIP = spec.ClusterIPs[0]
}

// ports draws ports with different numbers or protocols.
func (d *drawing) ports(spec *corev1.ServiceSpec) (out []corev1.ServicePort) {
	n := rapid.IntRange(1, 3).Draw(d.t, "ports")
	for i := range n {
		p := corev1.ServicePort{
			Port: pick(d, "port", d.lab.Ports), Protocol: pick(d, "protocol", d.lab.Protocols), TargetPort: intstr.FromInt32(4242),
		}
		if slices.ContainsFunc(out, func(o corev1.ServicePort) bool { return o.Port == p.Port && o.Protocol == p.Protocol }) {
			continue
		}
		if n > 1 || d.often("named") {
			p.Name = fmt.Sprintf("p%d", i)
		}
		if spec.Type != corev1.ServiceTypeClusterIP && !d.seldom("no node port") {
			p.NodePort = pick(d, "node port", d.lab.NodePorts)
			taken := slices.ContainsFunc(out, func(o corev1.ServicePort) bool { return o.NodePort == p.NodePort && o.Protocol == p.Protocol })
			if taken || !d.claim(fmt.Sprintf("node port %d/%s", p.NodePort, p.Protocol)) {
				p.NodePort = 0
			}
		}
		out = append(out, p)
	}
	return out
}

// claim reports whether nobody else has what, if that matters.
func (d *drawing) claim(what string) bool {
	if d.lab.Certain && d.claimed[what] {
		return false
	}
	d.claimed[what] = true
	return true
}

func (d *drawing) policies(spec *corev1.ServiceSpec) {
	policy := corev1.ServiceInternalTrafficPolicyCluster
	if d.oneIn(3, "internal local") {
		policy = corev1.ServiceInternalTrafficPolicyLocal
	}
	spec.InternalTrafficPolicy = &policy
	if spec.Type != corev1.ServiceTypeClusterIP {
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	if d.often("external local") && spec.ExternalTrafficPolicy != "" {
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	spec.SessionAffinity = corev1.ServiceAffinityNone
	if d.oneIn(4, "affinity") {
		spec.SessionAffinity = corev1.ServiceAffinityClientIP
		seconds := pick(d, "timeout", []int32{1, 60, 10800})
		spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
}

// ignored draws what a proxy must not look at (A9).
func (d *drawing) ignored(spec *corev1.ServiceSpec) {
	if d.seldom("traffic distribution") {
		prefer := corev1.ServiceTrafficDistributionPreferClose
		spec.TrafficDistribution = &prefer
	}
	spec.PublishNotReadyAddresses = d.seldom("publish not ready")
	if spec.Type == corev1.ServiceTypeLoadBalancer && d.seldom("load balancer IP") {
		spec.LoadBalancerIP = pick(d, "address", d.lab.VIPs).String()
	}
}

// vips draws external addresses for all of the ports.
func (d *drawing) vips(ports []corev1.ServicePort) (out []string) {
	for range rapid.IntRange(1, 2).Draw(d.t, "addresses") {
		addr := pick(d, "address", d.lab.VIPs)
		if len(d.given) > 0 && !d.lab.Certain && d.seldom("cluster IP of another") {
			addr = pick(d, "address", d.given)
		}
		free := !slices.Contains(out, addr.String())
		for _, p := range ports {
			free = free && (!d.lab.Certain || !d.claimed[claimOf(addr, p)])
		}
		if !free {
			continue
		}
		for _, p := range ports {
			d.claim(claimOf(addr, p))
		}
		out = append(out, addr.String())
	}
	return out
}

func claimOf(addr netip.Addr, p corev1.ServicePort) string {
	return fmt.Sprintf("%s:%d/%s", addr, p.Port, p.Protocol)
}

// balance draws the load balancer's addresses and ranges.
func (d *drawing) balance(svc *corev1.Service) {
	for _, ip := range d.vips(svc.Spec.Ports) {
		ingress := corev1.LoadBalancerIngress{IP: ip}
		if mode := pick(d, "ip mode", []corev1.LoadBalancerIPMode{"", "", corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy}); mode != "" {
			ingress.IPMode = &mode
		}
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, ingress)
	}
	if d.seldom("hostname") {
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{Hostname: "lb.example"})
	}
	if !d.oneIn(3, "source ranges") {
		return
	}
	for range rapid.IntRange(1, 3).Draw(d.t, "ranges") {
		text := d.sourceRange()
		if d.seldom("blanks") {
			text = " " + text + "\t"
		}
		svc.Spec.LoadBalancerSourceRanges = append(svc.Spec.LoadBalancerSourceRanges, text)
	}
}

// sourceRange draws one that has some client, or everybody.
func (d *drawing) sourceRange() string {
	addr := pick(d, "client", d.lab.Clients).Addr
	bits := pick(d, "bits", []int{0, 8, 2, 1}) // of the host part, but for the first
	switch {
	case d.seldom("open"):
		return netip.PrefixFrom(addr, 0).Masked().String()
	default:
		return netip.PrefixFrom(addr, addr.BitLen()-bits).Masked().String()
	}
}
