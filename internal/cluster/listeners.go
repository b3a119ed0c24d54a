package cluster

import (
	"strconv"
	"strings"
)

// The annotations by which Alibaba Cloud's controller manager makes listeners, under its prefix or the one of before 2019
// (cloud-provider-alibaba-cloud, pkg/controller/service/reconcile/annotation).
const (
	listenerProtocols     = "loadbalancer-protocol-port"
	listenerProxyProtocol = "loadbalancer-proxy-protocol"
)

var listenerPrefixes = [...]string{"service.beta.kubernetes.io/alibaba-cloud-", "service.beta.kubernetes.io/alicloud-"}

func listenerAnnotation(annotations map[string]string, name string) string {
	for _, prefix := range listenerPrefixes {
		if value, ok := annotations[prefix+name]; ok {
			return value
		}
	}
	return ""
}

// markListeners finds the ports whose listener at the load balancer must not be cut short: it terminates TLS (https of a
// classic load balancer, tcpssl of a network one), so that the backend expects plain text, or it sends the PROXY
// protocol's header, which the backend expects. Listeners of protocol http have no such header, whatever the annotation
// says. What the controller refuses (an entry without a colon) makes no listener.
func (s *Service) markListeners(annotations map[string]string) {
	protocols := map[string]string{} // by port
	for entry := range strings.SplitSeq(listenerAnnotation(annotations, listenerProtocols), ",") {
		protocol, port, ok := strings.Cut(strings.TrimSpace(entry), ":")
		if _, dup := protocols[port]; ok && !dup {
			protocols[port] = strings.ToLower(protocol)
		}
	}
	proxied := strings.EqualFold(listenerAnnotation(annotations, listenerProxyProtocol), "on")
	for i := range s.Ports {
		p := &s.Ports[i]
		switch protocols[strconv.Itoa(int(p.Port))] {
		case "https", "tcpssl":
			p.NoShortcut = true
		case "http":
		default:
			p.NoShortcut = proxied
		}
	}
}
