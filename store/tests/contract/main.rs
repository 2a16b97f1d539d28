// SPDX-License-Identifier: GPL-2.0-or-later
//! What every store must do, over every backend.
//!
//! A backend enters with a [`Database`](databases::Database) and a `contract!` of its own.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/mariadb.rs"]
mod mariadb_server;
#[path = "../common/mysql.rs"]
mod mysql_server;

mod any;
mod append;
mod databases;
mod inspection;
mod model;
mod queries;
mod retention;
mod support;
mod transfer;

use append::*;
use inspection::*;
use queries::*;
use retention::*;
use transfer::*;

macro_rules! contract_test {
    ([$($attribute:meta)?], $behaviour:ident, $body:block) => {
        #[test]
        $(#[$attribute])?
        fn $behaviour() $body
    };
}

macro_rules! contract {
    ($backend:ident, $database:ty, $attribute:tt, [$($behaviour:ident),* $(,)?]) => {
        mod $backend {
            $(contract_test!($attribute, $behaviour, {
                super::$behaviour::<$database>();
            });)*

            contract_test!($attribute, process_killed_within_a_transaction_leaves_nothing, {
                crate::append::process_killed_within_a_transaction_leaves_nothing::<$database>(concat!(
                    stringify!($backend),
                    "::process_killed_within_a_transaction_leaves_nothing"
                ));
            });
        }
    };
}

macro_rules! contracts {
    ($($(#[$attribute:meta])? $backend:ident: $database:ty),* $(,)?) => {
        $(contract!(
            $backend,
            $database,
            [$($attribute)?],
            [
                empty_store_has_nothing_to_show,
                stored_snapshot_is_not_stored_again,
                same_identity_with_other_totals_is_refused,
                later_fields_are_compared_where_both_know_them,
                later_fields_go_wherever_the_epoch_goes,
                snapshot_that_does_not_add_up_leaves_nothing,
                transaction_dropped_leaves_nothing,
                accounts_do_not_mix,
                hosts_do_not_mix,
                groups_and_filters_tell_hosts_and_accounts_apart,
                days_follow_summer_time,
                renewed_account_of_one_name_counts_anew,
                epochs_of_one_account_add_up,
                records_of_one_flow_are_both_kept,
                counter_past_63_bits_is_refused,
                account_whose_sums_would_pass_63_bits_takes_no_more,
                sums_go_with_a_backup,
                epoch_that_grew_adds_its_difference_once,
                epoch_belongs_to_the_time_in_which_it_was_counted,
                store_opened_again_has_everything,
                migrating_twice_changes_nothing,
                stores_created_at_once_are_one,
                pruned_records_are_gone_and_their_sums_stay,
                pruned_epoch_served_again_is_not_counted,
                sums_are_deleted_by_level,
                no_clock_deletes_what_is_young,
                epoch_of_a_wrong_clock_is_no_time_to_count_from,
                what_one_transaction_may_not_delete_is_deleted_by_several,
                day_whose_hours_are_gone_is_never_widened,
                days_of_every_zone_are_exact_while_quarters_are_kept,
                default_query_needs_no_records,
                rates_have_the_time_that_was_counted,
                archived_records_come_back_once,
                one_process_rotates_at_a_time,
                archives_of_two_databases_share_a_folder,
                archive_that_cannot_be_written_deletes_nothing,
                damaged_archive_adds_nothing_wrong,
                exported_records_are_those_that_are_stored,
                exported_sums_are_whole,
                restorable_export_is_the_same_store_again,
                backup_holds_everything_and_replaces_nothing,
                backup_restores_into_an_empty_store,
                sums_without_records_come_into_a_store_that_has_collected_since,
                sums_that_cannot_be_told_apart_are_refused_with_what_works,
                check_finds_what_does_not_sum_up,
                every_query_uses_its_key,
                account_has_a_view_with_the_originals_columns,
                rows_of_an_account_view_have_ids_of_their_own,
                views_show_addresses_as_people_write_them,
                views_show_ipv6_addresses_in_their_short_form,
                views_show_times_in_utc,
                hostile_names_are_only_names,
                hostile_names_in_a_backup_are_refused,
                addresses_of_any_bytes_are_stored,
                snapshot_of_many_addresses_is_summed_in_parts,
                standard_errors_stay_with_the_sums,
                error_is_unknown_where_an_old_module_sampled,
                unattributed_packets_are_told_of_the_accounts_asked_for,
                set_clock_does_not_change_how_long_it_was,
                queries_answer_as_a_map_would,
            ]
        );)*
    };
}

contracts! {
    sqlite: crate::databases::SqliteDatabase,
    mariadb: crate::databases::MariadbDatabase,
    mariadb_without_load: crate::databases::MariadbWithoutLoad,
    #[ignore = "needs MySQL's own server: cargo xtask test --all"]
    mysql_itself: crate::databases::MysqlDatabase,
    #[ignore = "needs MySQL's own server: cargo xtask test --all"]
    mysql_itself_without_load: crate::databases::MysqlWithoutLoad,
}
