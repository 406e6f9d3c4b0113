//! The time zone of a kubelet that the harness restarts: never UTC, with an offset of half an hour, and in the afternoon,
//! so that UTC, the zone of this machine and a clock of 12 hours give other timestamps.

use jiff::{Timestamp, tz::Offset};

/// The hour of the afternoon that it is in the zone now, far from the end of the day.
const LOCAL_HOUR: i32 = 17;
const HALF_HOUR_SECONDS: i32 = 30 * 60;

/// An offset from UTC by which it is now the afternoon, for [`KubeletConfig::TimeZone`](super::KubeletConfig::TimeZone).
pub fn afternoon_offset(now: Timestamp) -> Offset {
    const HOUR_SECONDS: i32 = 3600;
    let utc_hour = i32::from(Offset::UTC.to_datetime(now).hour());
    let mut hours = LOCAL_HOUR - utc_hour;
    // Zones reach from UTC-12 to UTC+14.
    if hours > 13 {
        hours -= 24;
    }
    let seconds = hours * HOUR_SECONDS + HALF_HOUR_SECONDS;
    Offset::from_seconds(seconds).unwrap_or(Offset::UTC)
}

/// A file in the format of tzfile(5), version 1, for a zone that always has this offset. `TZ` can name it where no time
/// zones are installed.
pub(super) fn tzfile(offset: Offset) -> Vec<u8> {
    const ABBREVIATION: &[u8] = b"TST\0";
    let mut file = b"TZif".to_vec();
    file.extend([0; 16]);
    // The numbers of UT indicators, standard indicators, leap seconds, transitions, types, bytes of abbreviations.
    for count in [0, 0, 0, 0, 1, ABBREVIATION.len() as u32] {
        file.extend(count.to_be_bytes());
    }
    file.extend(offset.seconds().to_be_bytes());
    // No daylight saving time; the abbreviation begins at byte 0.
    file.extend([0, 0]);
    file.extend(ABBREVIATION);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_afternoon_in_the_zone() {
        for hour in 0..24 {
            let now = Timestamp::from_second(1_796_000_400 / 86_400 * 86_400 + hour * 3600 + 600).unwrap();
            let offset = afternoon_offset(now);
            let local = offset.to_datetime(now);
            assert_eq!(
                (local.hour(), offset.seconds() % 3600 != 0),
                (17, true),
                "{hour}: {offset}"
            );
            assert!((-12 * 3600..=14 * 3600).contains(&offset.seconds()), "{offset}");
        }
    }

    #[test]
    fn the_file_is_a_time_zone() {
        let offset = Offset::from_seconds(5 * 3600 + 1800).unwrap();
        let zone = jiff::tz::TimeZone::tzif("test", &tzfile(offset)).unwrap();
        assert_eq!(zone.to_offset(Timestamp::UNIX_EPOCH), offset);
    }
}
