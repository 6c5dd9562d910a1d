//! The order of judgement, rule by rule and hole by hole, on the host.
//!
//! The holes that it closes, and where each is shown closed. `judge` is this program, `kernel` runs the
//! same decisions in the kernel, `live` real sockets on real links; `vm-test` runs the last two on
//! other kernels.
//!
//! | hole | test |
//! |---|---|
//! | H1 a proxied flow that the table allows by now | judge `a_proxied_flow_stays_proxied_when_the_table_changes_its_mind`; live `proxy::a_proxied_flow_stays_proxied_until_its_end` |
//! | H2 a live socket is no proof that the pod opened the connection | judge `answers_to_what_the_pod_opened_pass_until_then_nothing_does`; live `verdicts::a_deny_ends_established_connections` |
//! | H3 after a deny the pod goes on sending | judge `a_connection_meets_the_table_on_every_packet_in_both_directions` |
//! | H4 any outgoing datagram reopens a denied flow | judge `h4_the_pods_late_datagram_does_not_reopen_a_denied_flow`; live `datagrams::a_late_datagram_of_the_pod_does_not_reopen_a_denied_flow` |
//! | H5 simultaneous open, SYN cookies | judge `an_opening_segment_on_a_known_tuple_asks_the_sockets`; kernel `a_million_spoofed_sources`; live `proxy::a_flood_of_opening_segments_locks_nobody_out` |
//! | H6 "ask" and "refuse" told apart by state that a sender can make | judge `no_number_of_opening_segments_makes_an_entry_of_the_proxys`; live `verdicts::without_a_proxy` |
//! | H7 port reuse, a forged segment on a live flow | judge `an_opening_segment_on_a_known_tuple_asks_the_sockets`, `a_new_connection_never_meets_the_leg`; live `proxy::a_client_that_comes_back_from_the_same_port_is_served` |
//! | H8 identity after translation | judge `masqueraded_pods_keep_the_identity_of_their_interface`, `clients`; live `proxy::what_the_node_itself_asks` |
//! | H9 what the node sends is not exempt | judge `the_node_is_asked_of_the_host_scope_first_and_not_exempt` |
//! | H10 other addresses, gateways, link-local | judge `the_pod_is_found_by_its_interface`, `a_pod_sends_from_its_own_address_alone`; live `holes::h10_a_gateway_forwards` |
//! | H11 errors about proxied flows | judge `h11_*`; live `holes::h11_the_proxys_client_behind_a_smaller_link_gets_everything` |
//! | H12 one upstream per client, its port taken | live `proxy::a_client_that_comes_back_from_the_same_port_is_served` |
//! | H13 resets after a deny, sockets that hang | judge `a_bare_reset_passes_where_data_is_refused`; live `holes::h13_a_deny_ends_idle_connections_on_both_sides` |
//! | H14 fragments | packet `fragments_cannot_hide_or_change_a_tcp_header`; judge `later_fragments_meet_what_the_first_one_met` |
//! | H15 our maps under a flood | kernel `a_million_spoofed_sources`, `one_pods_outbound_flood`, `a_flood_of_refused_packets` |

mod clients;
mod datagrams;
mod flows;
mod inside;
mod straight;
mod table;
mod unknown;
mod world;
