package cluster

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// The values of the label kind.
const (
	kindService   = "Service"
	kindSlice     = "EndpointSlice"
	kindNamespace = "Namespace"
	kindPod       = "Pod"

	kindNode        = "Node"
	kindServiceCIDR = "ServiceCIDR"
	kindIngress     = "Ingress"
	kindHTTPRoute   = "HTTPRoute"
	kindGateway     = "Gateway"
	kindDNSEndpoint = "DNSEndpoint"

	// What is read for policies has names of its own: the API has two kinds NetworkPolicy, and pods are also read in full.
	kindPolicyPod          = "PolicyPod"
	kindPolicyNode         = "PolicyNode"
	kindNetworkPolicy      = "NetworkPolicy"
	kindClusterPolicy      = "ClusterNetworkPolicy"
	kindCalicoPolicy       = "CalicoNetworkPolicy"
	kindCalicoGlobalPolicy = "CalicoGlobalNetworkPolicy"
	kindCalicoTier         = "CalicoTier"
	kindCalicoSet          = "CalicoNetworkSet"
	kindCalicoGlobalSet    = "CalicoGlobalNetworkSet"
)

func newRefusedMetric(kinds ...string) *prometheus.CounterVec {
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "nearpath_cluster_refused_objects_total",
		Help: "Objects of the Kubernetes API, or of the manifest directory, that could not be converted; their last good state stays.",
	}, []string{"kind"})
	for _, kind := range kinds {
		refused.WithLabelValues(kind)
	}
	return refused
}

func newUnreadMetric() *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "nearpath_cluster_unread",
		Help: "1 while the Kubernetes API does not let a kind be listed or watched, or does not answer; what was read before stays.",
	}, []string{"kind"})
}

func newReportFailuresMetric() prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{
		Name: "nearpath_cluster_node_report_failures_total",
		Help: "Writes of this node's capacity, conditions and annotations that the Kubernetes API refused or did not take.",
	})
}

type manifestMetrics struct {
	refused  prometheus.Counter
	objects  *prometheus.CounterVec
	stale    prometheus.Gauge
	lastGood prometheus.Gauge
}

func newManifestMetrics(policy bool) manifestMetrics {
	kinds := []string{kindService, kindSlice, kindPod, kindNode, kindServiceCIDR}
	if policy {
		kinds = append(kinds, policyRefusals()...)
	}
	return manifestMetrics{
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearpath_cluster_refused_manifest_loads_total",
			Help: "Loads of the manifest directory refused because of an error in it.",
		}),
		objects: newRefusedMetric(kinds...),
		stale: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nearpath_cluster_manifests_stale",
			Help: "1 while the manifest directory has an error and an older state of it, or of an object in it, is served.",
		}),
		lastGood: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nearpath_cluster_manifest_last_good_load_timestamp_seconds",
			Help: "When the manifest directory was last read without an error, 0 for never.",
		}),
	}
}

// register does nothing without a registerer.
func register(to prometheus.Registerer, metrics ...prometheus.Collector) error {
	if to == nil {
		return nil
	}
	for _, m := range metrics {
		if err := to.Register(m); err != nil {
			return fmt.Errorf("register metrics of the cluster source: %w", err)
		}
	}
	return nil
}
