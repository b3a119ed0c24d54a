package sim

import (
	"fmt"
	"net/http"
	"slices"
)

// Error codes of the ECS and VPC APIs.
const (
	codeMissingParameter     = "MissingParameter"
	codeInvalidParameter     = "InvalidParameter"
	codeUnsupportedParameter = "UnsupportedParameter"
	codeInvalidAction        = "InvalidAction.NotFound"
	codeInvalidRegion        = "InvalidRegionId.NotFound"
	codeInvalidAccessKey     = "InvalidAccessKeyId.NotFound"
	codeTimeExpired          = "InvalidTimeStamp.Expired"
	codeTimeFormat           = "InvalidTimeStamp.Format"
	codeNonceUsed            = "SignatureNonceUsed"
	codeBadSignature         = "SignatureDoesNotMatch"
	codeIncompleteSignature  = "IncompleteSignature"
	codeMissingToken         = "MissingSecurityToken"
	codeTokenExpired         = "InvalidSecurityToken.Expired"
	codeTokenMismatch        = "InvalidSecurityToken.MismatchWithAccessKey"
	codeIdempotentMismatch   = "IdempotentParameterMismatch"
	codeIdempotentFailed     = "IdempotentFailed"
	codeThrottledUser        = "Throttling.User"
	codeDeepPage             = "Throttling.DeepPageSkip"
	codeForbidden            = "Forbidden.RAM"
	codeConflict             = "Operation.Conflict"
	codeInternal             = "InternalError"
	codeUnavailable          = "ServiceUnavailable"

	codeEniNotFound      = "InvalidEniId.NotFound"
	codeEniMalformed     = "InvalidParams.EniId"
	codeEcsMalformed     = "InvalidInstanceID.Malformed"
	codeEcsNotFound      = "InvalidEcsId.NotFound"
	codeVSwitchNotFound  = "InvalidVSwitchId.NotFound"
	codeGroupNotFound    = "InvalidSecurityGroupId.NotFound"
	codeGroupNotVPC      = "InvalidSecurityGroupId.NotVpc"
	codeGroupFull        = "SecurityGroupInstanceLimitExceed"
	codeMixedGroups      = "InvalidOperation.MultiGroupType"
	codeServiceManaged   = "InvalidOperation.ResourceManagedByCloudProduct"
	codeResourceNotFound = "InvalidResourceId.NotFound"
	codeTagQuota         = "QuotaExceeded.TagCount"
	codeEniState         = "InvalidOperation.InvalidEniState"
	codeEcsState         = "InvalidOperation.InvalidEcsState"
	codeDetachPrimary    = "InvalidOperation.DetachPrimaryEniNotAllowed"
	codeEniType          = "InvalidOperation.InvalidEniType"
	codeVPCMismatch      = "InvalidOperation.VpcMismatch"
	codeZoneMismatch     = "InvalidOperation.AvailabilityZoneMismatch"
	codeIPv4Exceeded     = "InvalidOperation.Ipv4CountExceeded"
	codeIPv6Exceeded     = "InvalidOperation.Ipv6CountExceeded"
	codeNoIPv6           = "InvalidOperation.Ipv6NotSupport"
	codeIPv6Off          = "InvalidVSwitch.Ipv6NotTurnOn"
	codeQueueNumber      = "InvalidParameter.InvalidEniQueueNumber"
	codeQueuePairs       = "InvalidParameter.InvalidQueuePairNumber"
	codeQueuesPerENI     = "InvalidOperation.MaxEniQueueNumberExceeded"
	codeTotalQueues      = "InvalidOperation.ExceedInstanceTypeQueueNumber"
	codePrimaryQueues    = "InvalidOperation.ModifyPrimaryEniQueueNumber"
	codePrimaryFixed     = "InvalidOperation.PrimaryEniOnlySupportModifyNameAndDesc"
	codeAddressQuota     = "QuotaExceeded.PrivateIpAddress"
	codeEniPerInstance   = "EniPerInstanceLimitExceeded"
	codeMaxENIs          = "MaxEniCountExceeded"
	codeIPNotEnough      = "InvalidVSwitchId.IpNotEnough"
	codeIPInvalid        = "InvalidVSwitchId.IpInvalid"
	codeIPAssigned       = "InvalidIp.IpAssigned"
	codeIPUnassigned     = "InvalidIp.IpUnassigned"
	codeIPRepeated       = "InvalidIp.IpRepeated"
	codeIPAddress        = "InvalidIp.Address"

	codeRouteTableNotFound = "InvalidRouteTableId.NotFound"
	codeNATGatewayNotFound = "InvalidNatGatewayId.NotFound"
	codeSNATTableNotFound  = "InvalidSnatTableId.NotFound"
)

// statuses are the HTTP statuses codes come with where it is not 400.
var statuses = map[int][]string{
	http.StatusNotFound: {
		codeInvalidAction, codeInvalidRegion, codeInvalidAccessKey, codeEniNotFound, codeEcsNotFound, codeVSwitchNotFound,
		codeGroupNotFound, codeResourceNotFound, codeRouteTableNotFound, codeNATGatewayNotFound, codeSNATTableNotFound,
		codePrimaryFixed,
	},
	http.StatusForbidden: {
		codeForbidden, codeConflict, codeEniType, codeVPCMismatch, codeZoneMismatch, codeIPv4Exceeded, codeIPv6Exceeded, codeNoIPv6,
		codeIPv6Off, codeEniPerInstance, codeMaxENIs, codeIPNotEnough, codeAddressQuota, codeIPInvalid, codeIPAssigned,
		codeIPUnassigned, codeIPRepeated, codeIPAddress, codeGroupNotVPC, codeGroupFull, codeMixedGroups, codeServiceManaged,
		codeTagQuota, codeQueueNumber, codeQueuePairs, codeQueuesPerENI, codeTotalQueues, codePrimaryQueues,
	},
	http.StatusInternalServerError: {codeInternal},
	http.StatusServiceUnavailable:  {codeUnavailable},
}

// statusOf is the HTTP status a code comes with.
func statusOf(code string) int {
	for status, codes := range statuses {
		if slices.Contains(codes, code) {
			return status
		}
	}
	return http.StatusBadRequest
}

// A refusal is an error answer of the API.
type refusal struct {
	status  int
	code    string
	message string
}

func (r *refusal) Error() string { return r.code + ": " + r.message }

func refuse(code, format string, args ...any) *refusal {
	return &refusal{status: statusOf(code), code: code, message: fmt.Sprintf(format, args...)}
}

func missing(param string) *refusal {
	return &refusal{
		status: http.StatusBadRequest, code: codeMissingParameter + "." + param,
		message: fmt.Sprintf("The input parameter %q that is mandatory for processing this request is not supplied.", param),
	}
}

func invalid(param, value string) *refusal {
	return refuse(codeInvalidParameter, "The specified parameter %q has the value %q, which is not valid.", param, value)
}
